"""Claims: what a loss says of itself, and which of them an objective implies."""

from __future__ import annotations

from enum import Enum

from gspo_core.objectives.clipped_surrogates import Clip, DualClip, GateOnly
from gspo_core.objectives.gates import Band, OffPolicyMask, TokenClip
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.ratios import Product, ProductToken, Sequence, SequenceToken, Token
from gspo_core.objectives.reductions import SequenceMean, TokenMean
from gspo_core.objectives.soft_surrogates import ReciprocalWeight

from .oracle import can_judge


class Claim(Enum):
    """What a loss says of itself; a law presupposes some of them, and is not asked where they are not made."""

    JUDGED = "value and gradient are those of an objective whose ratio and reduction the scalar oracle knows"
    DERIVATIVE = "the gradient is the derivative of the value"
    OWN_GRADIENT = "the gradient comes from the loss itself (closed form or autodiff), not from differences of its value"
    MEAN_RATIO = "a response has one ratio, exp of the mean of its tokens' log ratios"
    TOKEN_RATIO = "every token has its own ratio"
    LEVEL_RATIO = "a response whose tokens all have log ratio c has the ratio e^c"
    CLIP = "min(r A, clip(r, 1 − ε_low, 1 + ε_high) A)"
    UNBOUNDED = "the loss of a bad unit grows with its ratio without end"
    CEILING = "a bad unit pays at most for the ratio `cap`"
    SEQUENCE_MEAN = "every non-empty response weighs the same"
    TOKEN_MEAN = "every token weighs the same"
    SEQUENCE_ADVANTAGES = "takes one advantage per response"
    TOKEN_ADVANTAGES = "takes one advantage per token"
    BOUNDS = "beyond a bound on its log ratio a unit has no gradient"
    EDGES = "on a bound exactly, a unit is live, and one step of rounding beyond it silent"
    DENOMINATOR = "takes the number to divide by"
    KL = "takes reference log-probs, and adds a plain KL penalty to the policy loss"
    SAMPLER = "takes the sampler's log-probs, and corrects for it with a weight held constant"
    LAYOUTS = "takes packed, restricted and sharded layouts"
    REPORTS = "says the log ratio of each unit, and which units are clipped"
    INERT = "padding does not change a bit of what is returned"
    RISING = "beyond e⁵⁰ the loss of a bad unit goes on rising, along the tangent there"
    DETACHED = "lets no gradient through to old log-probs and advantages"
    COMPILES = "can be compiled by its framework"


BOUNDED = (TokenClip, Band, OffPolicyMask)


def implied(objective: Objective) -> frozenset[Claim]:
    """What a loss claims that is said to be like this objective.

    >>> from gspo_core import GSPO
    >>> Claim.MEAN_RATIO in implied(GSPO), Claim.TOKEN_ADVANTAGES in implied(GSPO)
    (True, False)
    """
    ratio, surrogate, reduction = objective.ratio, objective.surrogate, objective.reduction
    plain = objective.gate is None
    facts = {
        Claim.JUDGED: can_judge(objective),
        Claim.DERIVATIVE: surrogate.exact and not isinstance(ratio, (SequenceToken, ProductToken)),
        Claim.MEAN_RATIO: isinstance(ratio, (Sequence, SequenceToken)) and plain,
        Claim.TOKEN_RATIO: isinstance(ratio, Token) and plain,
        Claim.LEVEL_RATIO: isinstance(ratio, (Token, Sequence, SequenceToken)) and plain,
        Claim.CLIP: isinstance(surrogate, (Clip, DualClip)) and plain and not isinstance(ratio, (Product, ProductToken)),
        Claim.UNBOUNDED: isinstance(surrogate, Clip) and plain and not isinstance(ratio, (Product, ProductToken)),
        Claim.CEILING: isinstance(surrogate, DualClip) and plain and not isinstance(ratio, (Product, ProductToken)),
        Claim.BOUNDS: isinstance(surrogate, (Clip, DualClip, GateOnly, ReciprocalWeight)) or type(objective.gate) in BOUNDED,
        Claim.SEQUENCE_MEAN: isinstance(reduction, SequenceMean),
        Claim.TOKEN_MEAN: isinstance(reduction, TokenMean),
        Claim.SEQUENCE_ADVANTAGES: True,
        Claim.TOKEN_ADVANTAGES: ratio.per_token,
    }
    return frozenset(claim for claim, holds in facts.items() if holds)
