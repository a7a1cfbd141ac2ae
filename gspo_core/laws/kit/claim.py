"""Claims: properties that a loss claims to have, and those that an objective implies."""

from __future__ import annotations

from enum import Enum

from gspo_core.objectives.clipped_surrogates import Clip, DualClip, GateOnly, Unclipped
from gspo_core.objectives.gates import Band, OffPolicyMask, TokenClip
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.ratios import Product, ProductToken, Sequence, SequenceToken, Token
from gspo_core.objectives.reductions import SequenceMean, TokenMean
from gspo_core.objectives.soft_surrogates import ReciprocalWeight

from .oracle import is_known


class Claim(Enum):
    """A property that a loss claims to have. A law lists the claims it needs, and is skipped if one is missing."""

    KNOWN_FORMULA = "value and gradient are those of an objective whose ratio and reduction the scalar oracle implements"
    DERIVATIVE = "the gradient is the derivative of the value"
    OWN_GRADIENT = "the gradient comes from the loss itself (closed form or autodiff), not from differences of its value"
    MEAN_RATIO = "a response has one ratio, exp of the mean of its tokens' log ratios"
    TOKEN_RATIO = "every token has its own ratio"
    LEVEL_RATIO = "a response whose tokens all have log ratio c has the ratio e^c"
    CLIP = "min(r A, clip(r, 1 − ε_low, 1 + ε_high) A)"
    UNBOUNDED = "with a negative advantage the loss grows with the ratio without bound"
    CEILING = "with a negative advantage the loss stops growing at the ratio `cap` (dual clip)"
    SEQUENCE_MEAN = "every non-empty response has the same weight in the loss"
    TOKEN_MEAN = "every token has the same weight in the loss"
    SEQUENCE_ADVANTAGES = "accepts one advantage per response"
    TOKEN_ADVANTAGES = "accepts one advantage per token"
    BOUNDS = "beyond a bound on its log ratio a unit has no gradient (a clip, or a gate)"
    EDGES = "exactly on a bound a unit has a gradient, and one step of rounding beyond it none"
    DENOMINATOR = "accepts the number to divide by as an argument"
    KL = "accepts reference log-probs, and adds a plain KL penalty to the policy loss"
    SAMPLER = "accepts the sampler's log-probs, and corrects for it with a weight that is held constant"
    WHOLE_WEIGHT = "weighs a response by its whole π_old/π_sampler, or each token by its own, and never by a mean over tokens"
    LAYOUTS = "accepts packed, restricted and sharded layouts"
    REPORTS = "reports the log ratio of each unit, and which units are clipped"
    INERT = "the contents of padding do not change a single bit of the result"
    RISING = "beyond the ratio e⁵⁰ the loss for a negative advantage continues along its tangent"
    DETACHED = "passes no gradient to old log-probs and advantages"
    PRINTED = "the value is another function with the gradient of the formula, such as sg[W] A log π"
    COMPILES = "can be compiled by its framework"


BOUNDED = (TokenClip, Band, OffPolicyMask)


def implied(objective: Objective) -> frozenset[Claim]:
    """The claims of a loss that is declared to be like this objective.

    >>> from gspo_core import GSPO
    >>> Claim.MEAN_RATIO in implied(GSPO), Claim.TOKEN_ADVANTAGES in implied(GSPO)
    (True, False)
    """
    ratio, surrogate, reduction = objective.ratio, objective.surrogate, objective.reduction
    plain = objective.gate is None
    facts = {
        Claim.KNOWN_FORMULA: is_known(objective),
        Claim.DERIVATIVE: surrogate.exact and not isinstance(ratio, (SequenceToken, ProductToken)),
        Claim.MEAN_RATIO: type(ratio) in (Sequence, SequenceToken) and plain,
        Claim.TOKEN_RATIO: type(ratio) is Token and plain,
        Claim.LEVEL_RATIO: type(ratio) in (Token, Sequence, SequenceToken) and plain,
        Claim.CLIP: isinstance(surrogate, (Clip, DualClip)) and plain and not isinstance(ratio, (Product, ProductToken)),
        Claim.UNBOUNDED: type(surrogate) in (Clip, Unclipped) and (plain or type(objective.gate) in BOUNDED),
        Claim.CEILING: isinstance(surrogate, DualClip) and plain and not isinstance(ratio, (Product, ProductToken)),
        Claim.BOUNDS: isinstance(surrogate, (Clip, DualClip, GateOnly, ReciprocalWeight)) or type(objective.gate) in BOUNDED,
        Claim.SEQUENCE_MEAN: isinstance(reduction, SequenceMean),
        Claim.TOKEN_MEAN: isinstance(reduction, TokenMean),
        Claim.SEQUENCE_ADVANTAGES: True,
        Claim.TOKEN_ADVANTAGES: ratio.per_token,
    }
    return frozenset(claim for claim, holds in facts.items() if holds)
