"""Objectives: the choices that make one, the loss, and the named combinations of the literature."""

from gspo_core.types import Gain, Gate, Gated, LogProbGate, PerToken, Ratio, Reduction, Surrogate

from .clipped_surrogates import Clip, DualClip, GateOnly, Unclipped
from .gates import Band, OffPolicyMask, TokenClip
from .held_weights import BandWeight, LogGain, TaperedWeight
from .loss import Objective, policy_loss
from .presets import *  # noqa: F403 - a preset is public as soon as presets.py defines it
from .presets import PRESETS
from .ratios import Product, ProductToken, Sequence, SequenceToken, Token, Turn, TurnToken
from .reductions import FixedLength, SequenceMean, TokenMean, TurnMean
from .regions import BinaryKL, Region, TotalVariation
from .result import LinearLoss, Loss
from .soft_surrogates import GammaWeight, ReciprocalWeight, SoftGate, TruncatedWeight

__all__ = [
    "PRESETS",
    "Band",
    "BandWeight",
    "BinaryKL",
    "Clip",
    "DualClip",
    "FixedLength",
    "Gain",
    "GammaWeight",
    "Gate",
    "GateOnly",
    "Gated",
    "LinearLoss",
    "LogGain",
    "LogProbGate",
    "Loss",
    "Objective",
    "OffPolicyMask",
    "PerToken",
    "Product",
    "ProductToken",
    "Ratio",
    "ReciprocalWeight",
    "Reduction",
    "Region",
    "Sequence",
    "SequenceMean",
    "SequenceToken",
    "SoftGate",
    "Surrogate",
    "TaperedWeight",
    "Token",
    "TokenClip",
    "TokenMean",
    "TotalVariation",
    "TruncatedWeight",
    "Turn",
    "TurnMean",
    "TurnToken",
    "Unclipped",
    "policy_loss",
]
__all__ += list(PRESETS)
