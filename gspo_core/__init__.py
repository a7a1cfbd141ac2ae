"""Group Sequence Policy Optimization, stated once: an estimator is a value and a weight.

A policy-gradient loss touches a model only through the log-probabilities of the sampled tokens, so

    policy_loss(objective, logp, old_logp, advantage, layout) -> Loss(value, logp_grad, ...)

returns the loss and ∂loss/∂logp in closed form, on any array-API library, and whoever owns the model finishes the
chain rule: PyTorch's autograd (`gspo_torch`), JAX's, a fused LM head, or nobody at all.

An objective is three choices, and a fourth where a method needs one:

    ratio       Token()          w_it = π(y_it)/π_old(y_it)
                Sequence()       s_i  = (π(y_i)/π_old(y_i))^(1/|y_i|)
                SequenceToken()  s_it = sg[s_i] · π(y_it)/sg[π(y_it)]      ·   Product()   ·   ProductToken()
                Segment()        s_ik, the same inside each turn of a dialogue     ·   SegmentToken()
    surrogate   Clip(low, high)  min(s A, clip(s, 1 − low, 1 + high) A)
                Unclipped · DualClip · GateOnly · SoftGate · TruncatedWeight · ReciprocalWeight · GammaWeight
    reduction   SequenceMean()   ·   TokenMean()   ·   FixedLength(length)   ·   TurnMean()
    gate        TokenClip(low, high)   ·   Band(width, length_power)   ·   OffPolicyMask(delta)   ·   None

    GSPO       = Objective(Sequence(),      Clip(3e-4, 4e-4), SequenceMean())     arXiv 2507.18071
    GSPO_TOKEN = Objective(SequenceToken(), Clip(3e-4, 4e-4), SequenceMean())
    GRPO       = Objective(Token(),         Clip(0.2, 0.2),   SequenceMean())     arXiv 2402.03300

and a dozen more in `presets`. Around it:

    advantage   group_advantages, decoupled_advantages, turn_advantages      what a response, or a turn, is worth
    dropping    plan(rewards, group_ids).step(objective, layout)              what need not be run, and the denominator
    sampler     sampler_weight(TIS, old_logp, sampler_logp, layout)          π_old/π_sampler, multiplies the advantage
    routing     router_shift(old_router_logp, router_logp, layout, floor=...)   RSPO: a shift of the old log-probs
    clip range  clip_range_for(0.15, pilot), clip_fraction_for(clip, pilot)   ε from a few rollouts, and back
    metrics     batch_metrics(...), sampler_metrics(...) → merge → summary    clipping, log s, divergences; on the device
    engines     mismatch_report(logp, old_logp, sampler_logp, ...)            staleness and engine noise, told apart
    KL          kl_penalty(TokenKL(), logp, ref_logp, layout, ...)           a term of its own, off by default
"""

from ._ledger import Metrics, merge
from .advantages import decoupled_advantages, group_advantages
from .bounds import Mask, Reject, Truncate
from .clip_range import ClipFraction, DriftLaw, LengthBin, clip_fraction_for, clip_range_for, clip_table
from .correction import (
    GEO_RS,
    ICEPOP,
    MIS,
    TIS,
    Correction,
    GeometricWeight,
    ProductWeight,
    SamplerWeight,
    TokenWeight,
    sampler_weight,
)
from .diagnose import diagnose
from .dialogue import Turns
from .drift import BySign, Drift, Tails, estimate_drift
from .engine_gap import sampler_metrics
from .findings import Finding, Kind, Thresholds
from .gates import Band, OffPolicyMask, TokenClip
from .kl import K1, K2, K3, KLEstimator, KLPenalty, SequenceKL, TokenKL, kl_penalty
from .layouts import Packed, Padded, sharded
from .metrics import batch_metrics, group_metrics
from .mismatch import MismatchPart, MismatchReport, mismatch_report
from .normalisers import BatchStd, Centred, LeaveOneOut, MaxRL, Normaliser, ZScore
from .objective import Objective, policy_loss
from .pilot import Pilot
from .plan import Plan, Step, plan
from .presets import (
    ASPO,
    BNPO,
    CISPO,
    DAPO,
    DEEPSEEK_V3_2,
    DR_GRPO,
    FSPO,
    GATE_ONLY_GSPO,
    GMPO,
    GRPO,
    GSPO,
    GSPO_TOKEN,
    LUSPO,
    SAPO,
    VESPO,
)
from .ratios import Product, ProductToken, Segment, SegmentToken, Sequence, SequenceToken, Token
from .readings import ClipCell, clip_counts, clip_share, summary
from .reductions import FixedLength, SequenceMean, TokenMean, TurnMean
from .restricted import Restricted
from .router_shift import router_shift
from .soft_surrogates import GammaWeight, ReciprocalWeight, SoftGate, TruncatedWeight
from .surrogates import Clip, DualClip, GateOnly, Unclipped
from .turns import reward_to_go, turn_advantages
from .types import Gain, Gate, Gated, Layout, Loss, PerToken, Ratio, Reduction, Surrogate

__all__ = [
    "ASPO",
    "BNPO",
    "CISPO",
    "DAPO",
    "DEEPSEEK_V3_2",
    "DR_GRPO",
    "FSPO",
    "GATE_ONLY_GSPO",
    "GEO_RS",
    "GMPO",
    "GRPO",
    "GSPO",
    "GSPO_TOKEN",
    "ICEPOP",
    "K1",
    "K2",
    "K3",
    "LUSPO",
    "MIS",
    "SAPO",
    "TIS",
    "VESPO",
    "Band",
    "BatchStd",
    "BySign",
    "Centred",
    "Clip",
    "ClipCell",
    "ClipFraction",
    "Correction",
    "Drift",
    "DriftLaw",
    "DualClip",
    "Finding",
    "FixedLength",
    "Gain",
    "GammaWeight",
    "Gate",
    "GateOnly",
    "Gated",
    "GeometricWeight",
    "KLEstimator",
    "KLPenalty",
    "Kind",
    "Layout",
    "LeaveOneOut",
    "LengthBin",
    "Loss",
    "Mask",
    "MaxRL",
    "Metrics",
    "MismatchPart",
    "MismatchReport",
    "Normaliser",
    "Objective",
    "OffPolicyMask",
    "Packed",
    "Padded",
    "PerToken",
    "Pilot",
    "Plan",
    "Product",
    "ProductToken",
    "ProductWeight",
    "Ratio",
    "ReciprocalWeight",
    "Reduction",
    "Reject",
    "Restricted",
    "SamplerWeight",
    "Segment",
    "SegmentToken",
    "Sequence",
    "SequenceKL",
    "SequenceMean",
    "SequenceToken",
    "SoftGate",
    "Step",
    "Surrogate",
    "Tails",
    "Thresholds",
    "Token",
    "TokenClip",
    "TokenKL",
    "TokenMean",
    "TokenWeight",
    "Truncate",
    "TruncatedWeight",
    "TurnMean",
    "Turns",
    "Unclipped",
    "ZScore",
    "batch_metrics",
    "clip_counts",
    "clip_fraction_for",
    "clip_range_for",
    "clip_share",
    "clip_table",
    "decoupled_advantages",
    "diagnose",
    "estimate_drift",
    "group_advantages",
    "group_metrics",
    "kl_penalty",
    "merge",
    "mismatch_report",
    "plan",
    "policy_loss",
    "reward_to_go",
    "router_shift",
    "sampler_metrics",
    "sampler_weight",
    "sharded",
    "summary",
    "turn_advantages",
]
