"""Trust regions in probabilities: gates that compare the sampled token's probability with the old one, π with π_old.

A ratio says little of a rare token (0.001 → 0.003 is a ratio of 3 and moves nothing) and much of a frequent one. The regions
here compare the probabilities themselves: the total variation and the divergence of the distributions over "this token" and
"any other".
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from gspo_core._lib.checks import check_flag, hold_numbers
from gspo_core.types import Array, Gated, Layout, Namespace


class Region(ABC):
    """How far a token's probability may rise and fall: a gate of an objective.

    A token above the region is out if its advantage is positive, one below it if the advantage is negative: as with a clip,
    the way back stays open. With `either_side` a token outside is out whatever its advantage. A token that is out has no
    gradient and stays in the denominator. Where units are tokens it has no value either; inside the ratio of a sequence or a
    turn it counts with a log ratio of 0. What is not a number (NaN) is inside, so that the loss shows it.

    A region of your own derives from this class and defines `left`.

    >>> import numpy as np
    >>> region: Region = TotalVariation(0.2, 0.2)
    >>> [x.tolist() for x in region.left(np, np.log(np.array([0.9, 0.1])), np.log(np.array([0.5, 0.5])))]
    [[True, False], [False, True]]
    """

    sees_log_probs: ClassVar[bool] = True
    either_side: bool = False
    """Whether a token outside is out whatever the sign of its advantage."""

    @abstractmethod
    def left(self, xp: Namespace, logp: Array, old_logp: Array) -> tuple[Array, Array]:
        """(above the region, below it), boolean, elementwise."""

    def out(self, xp: Namespace, logp: Array, old_logp: Array, advantage: Array) -> Array:
        """Token array, boolean: the tokens that do not learn. All arguments are per token."""
        above, below = self.left(xp, logp, old_logp)
        return above | below if self.either_side else (above & (advantage > 0)) | (below & (advantage < 0))

    def __call__(self, d: Array, advantage: Array, layout: Layout, per_token: bool, *, logp: Array, old_logp: Array) -> Gated:
        """Close the tokens that are out."""
        xp = layout.xp
        at_tokens = advantage if per_token else layout.spread(advantage)
        inside = layout.valid & ~self.out(xp, logp, old_logp, at_tokens)
        if per_token:
            return Gated(d, xp.where(inside, advantage, 0.0), inside)
        return Gated(xp.where(inside, d, 0.0), advantage, inside)


@dataclass(frozen=True)
class TotalVariation(Region):
    """π − π_old in [−low, high]: the total variation between "this token" and "any other".

    `low` and `high` positive and at most 1, else ValueError. Sources: DPPO-Binary-TV, arXiv 2602.04879, as in verl, whose
    example has 0.15; 0.2 is prime-rl's.

    >>> import numpy as np
    >>> above, below = TotalVariation(0.2, 0.2).left(np, np.log(np.array([0.003, 0.75])), np.log(np.array([0.001, 0.5])))
    >>> above.tolist()
    [False, True]
    """

    low: float = 0.2
    """How far a probability may fall."""
    high: float = 0.2
    """How far a probability may rise."""
    either_side: bool = False
    """Whether a token outside is out whatever the sign of its advantage (IPO)."""

    def __post_init__(self) -> None:
        hold_numbers(self, "low", "high")
        check_flag("either_side", self.either_side)
        for name in ("low", "high"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"{name}: expected a difference of probabilities in (0, 1], got {getattr(self, name)}")

    def left(self, xp: Namespace, logp: Array, old_logp: Array) -> tuple[Array, Array]:
        """(above, below), elementwise; a log-prob above 0 counts as 0."""
        moved = _probability(xp, logp) - _probability(xp, old_logp)
        return moved > self.high, moved < -self.low


@dataclass(frozen=True)
class BinaryKL(Region):
    """KL(π_old ‖ π) between "this token" and "any other" at most `high` if π has risen, at most `low` if it has fallen.

    KL = p log(p/q) + (1 − p) log((1 − p)/(1 − q)) with p = π_old and q = π of the token; ∞ where q is 0 or 1 and p is not.

    `low` and `high` in nats, positive and finite, else ValueError. Source: DPPO-Binary-KL, arXiv 2602.04879, as in verl, whose
    example has 0.05.

    >>> import numpy as np
    >>> above, below = BinaryKL(0.05, 0.05).left(np, np.log(np.array([0.003, 0.75])), np.log(np.array([0.001, 0.5])))
    >>> above.tolist()
    [False, True]
    """

    low: float = 0.05
    """Largest divergence of a token that has become rarer; nats."""
    high: float = 0.05
    """Largest divergence of a token that has become more frequent; nats."""
    either_side: bool = False
    """Whether a token outside is out whatever the sign of its advantage."""

    def __post_init__(self) -> None:
        hold_numbers(self, "low", "high")
        check_flag("either_side", self.either_side)
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
