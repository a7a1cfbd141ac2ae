"""Trust regions in probabilities: which tokens have moved too far from the old policy, measured in π and not in π/π_old.

A ratio says little of a rare token (0.001 → 0.003 is a ratio of 3 and moves nothing) and much of a frequent one. The regions
here compare the sampled token's probabilities themselves: the total variation and the divergence of the distributions over
"this token" and "any other". The mask multiplies the advantage, `kept_advantages`: docs/family.md has the losses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from gspo_core._lib.array import namespace
from gspo_core._lib.checks import check_choice, check_flag, hold_numbers
from gspo_core._lib.validation import check_layout, log_probs
from gspo_core.objectives import PerToken, Token
from gspo_core.objectives.loss import unit_advantage
from gspo_core.types import Array, Layout, Namespace


class Region(Protocol):
    """How far a token's probability may rise and fall.

    >>> import numpy as np
    >>> region: Region = TotalVariation(0.2, 0.2)
    >>> [x.tolist() for x in region.left(np, np.log(np.array([0.9, 0.1])), np.log(np.array([0.5, 0.5])))]
    [[True, False], [False, True]]
    """

    def left(self, xp: Namespace, logp: Array, old_logp: Array) -> tuple[Array, Array]:
        """(above the region, below it), boolean, elementwise."""


@dataclass(frozen=True)
class TotalVariation:
    """π − π_old in [−low, high]: the total variation between "this token" and "any other".

    `low` and `high` positive and at most 1, else ValueError. Source: DPPO-Binary-TV, arXiv 2602.04879; 0.2 is prime-rl's.

    >>> import numpy as np
    >>> above, below = TotalVariation(0.2, 0.2).left(np, np.log(np.array([0.003, 0.75])), np.log(np.array([0.001, 0.5])))
    >>> above.tolist()
    [False, True]
    """

    low: float = 0.2
    """How far a probability may fall."""
    high: float = 0.2
    """How far a probability may rise."""

    def __post_init__(self) -> None:
        hold_numbers(self, "low", "high")
        for name in ("low", "high"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: expected a difference of probabilities in (0, 1], got {getattr(self, name)}")

    def left(self, xp: Namespace, logp: Array, old_logp: Array) -> tuple[Array, Array]:
        """(above, below), elementwise; a log-prob above 0 counts as 0."""
        moved = _probability(xp, logp) - _probability(xp, old_logp)
        return moved > self.high, moved < -self.low


@dataclass(frozen=True)
class BinaryKL:
    """KL(π_old ‖ π) between "this token" and "any other" at most `high` if π has risen, at most `low` if it has fallen.

    KL = p log(p/q) + (1 − p) log((1 − p)/(1 − q)) with p = π_old and q = π of the token; ∞ where q is 0 or 1 and p is not.

    `low` and `high` in nats, positive and finite, else ValueError. Source: DPPO-Binary-KL, arXiv 2602.04879.

    >>> import numpy as np
    >>> above, below = BinaryKL(0.05, 0.05).left(np, np.log(np.array([0.003, 0.75])), np.log(np.array([0.001, 0.5])))
    >>> above.tolist()
    [False, True]
    """

    low: float = 0.05
    """Largest divergence of a token that has become rarer; nats."""
    high: float = 0.05
    """Largest divergence of a token that has become more frequent; nats."""

    def __post_init__(self) -> None:
        hold_numbers(self, "low", "high")
        for name in ("low", "high"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: expected a positive finite divergence in nats, got {getattr(self, name)}")

    def left(self, xp: Namespace, logp: Array, old_logp: Array) -> tuple[Array, Array]:
        """(above, below), elementwise; a log-prob above 0 counts as 0."""
        q, p = _probability(xp, logp), _probability(xp, old_logp)
        kl = _term(xp, p, q) + _term(xp, 1.0 - p, 1.0 - q)
        return (q > p) & (kl > self.high), (q < p) & (kl > self.low)


def _probability(xp: Namespace, logp: Array) -> Array:
    return xp.exp(xp.where(logp > 0, 0.0, logp))


def _term(xp: Namespace, p: Array, q: Array) -> Array:
    """p log(p/q): 0 where p is 0, ∞ where q alone is."""
    there = (p > 0) & (q > 0)
    term = p * (xp.log(xp.where(there, p, 1.0)) - xp.log(xp.where(there, q, 1.0)))
    return xp.where((p > 0) & (q == 0), math.inf, term)


def inside_region(
    region: Region,
    logp: Array,
    old_logp: Array,
    advantage: Array | PerToken,
    layout: Layout,
    *,
    either_side: bool = False,
    allow_low_precision: bool = False,
) -> Array:
    """Token array, boolean: the tokens whose gradient does not lead further out of a trust region that they have left.

    A token above the region is out if its advantage is positive, one below it if the advantage is negative: as with a clip, the
    way back stays open. With `either_side` (IPO) a token outside is out whatever its advantage.

    Args:
        region: `TotalVariation(low, high)` or `BinaryKL(low, high)`.
        logp: token array, log π of the sampled tokens; nats.
        old_logp: token array, the same under the policy that the region is around; DPPO and IPO take the sampler's.
        advantage: [N], or one per token, as for `policy_loss`.
        layout: where the policy's tokens stand. Masked slots are inert, and False in the result.
        either_side: ignore the advantage's sign.
        allow_low_precision: accept log-probs below float32 and upcast them.

    Returns: the mask, for `kept_advantages`. A token whose probability or advantage is NaN is inside: the loss shows it.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    Source: DPPO, arXiv 2602.04879; IPO is prime-rl's name.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> old, layout = np.log(np.array([[0.5, 0.5, 0.5]])), Padded(np.array([[True, True, True]]))
    >>> new = np.log(np.array([[0.6, 0.9, 0.1]]))
    >>> inside_region(TotalVariation(), new, old, np.array([1.0]), layout).tolist()
    [[True, False, True]]
    >>> inside_region(TotalVariation(), new, old, np.array([1.0]), layout, either_side=True).tolist()
    [[True, False, False]]
    """
    check_choice("region", region, ("left",), "a region such as TotalVariation(0.2, 0.2)")
    check_flag("either_side", either_side)
    check_layout(layout)
    values = advantage.values if isinstance(advantage, PerToken) else advantage
    xp = namespace(logp=logp, old_logp=old_logp, advantage=values, layout=layout.valid)
    logp, old_logp = log_probs(xp, layout, allow_low_precision, logp=logp, old_logp=old_logp)
    units = unit_advantage(Token(), advantage, layout, logp)
    above, below = region.left(xp, logp, old_logp)
    out = above | below if either_side else (above & (units > 0)) | (below & (units < 0))
    return layout.valid & ~out
