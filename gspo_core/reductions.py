"""Reductions: non-negative weights per unit over an explicit denominator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._array import count_true
from ._units import safe_lengths
from .types import Array, Layout


@dataclass(frozen=True)
class SequenceMean:
    """Every non-empty sequence weighs the same: 1/denominator, shared equally by its tokens.

    The denominator counts non-empty sequences. Source: GSPO, arXiv 2507.18071, eq. 5 (1/G Σ_i) and 13 (1/G Σ_i 1/|y_i| Σ_t).
    """

    sums_tokens: ClassVar[bool] = False

    def count(self, layout: Layout) -> Array:
        """[] number of non-empty sequences, integer."""
        return count_true(layout.xp, layout.lengths() > 0)

    def weights(self, layout: Layout, per_token: bool, denominator: Array) -> Array:
        """[N] 1/denominator, or as a token array 1/(|y_i| · denominator)."""
        xp = layout.xp
        lengths = xp.astype(layout.lengths(), denominator.dtype)
        share = xp.where(lengths > 0, 1.0 / denominator, 0.0)
        if not per_token:
            return share
        return layout.spread(share / safe_lengths(denominator, layout))


@dataclass(frozen=True)
class TokenMean:
    """Every token weighs the same: 1/denominator. Long sequences weigh more.

    The denominator counts tokens. Needs a ratio whose units are tokens. Source: DAPO, arXiv 2503.14476, eq. 8.
    """

    sums_tokens: ClassVar[bool] = True

    def count(self, layout: Layout) -> Array:
        """[] number of tokens, integer."""
        return layout.xp.sum(layout.lengths())

    def weights(self, layout: Layout, per_token: bool, denominator: Array) -> Array:
        """Token array: 1/denominator."""
        if not per_token:
            raise ValueError("TokenMean: expected a ratio whose units are tokens, got one whose units are sequences")
        return layout.xp.where(layout.valid, 1.0 / denominator, 0.0)


@dataclass(frozen=True)
class FixedLength:
    """Every token weighs the same, 1/denominator, whatever the lengths in this batch; a sequence weighs |y_i|/denominator.

    The denominator counts `length` tokens for every non-empty sequence. With the longest possible response this is
    Dr.GRPO's constant; with 1 the mean over sequences of sums over tokens (LUSPO, MiniRL).

    `length` is a whole number of at least 1, else ValueError. Source: Dr.GRPO, arXiv 2503.20783, section 3.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> int(FixedLength(3000).count(Padded(np.array([[True, True], [False, False]]))))
    3000
    """

    sums_tokens: ClassVar[bool] = False

    length: int
    """Tokens that every sequence counts for."""

    def __post_init__(self) -> None:
        if not isinstance(self.length, int) or self.length < 1:
            raise ValueError(f"length: expected a whole number of at least 1, got {self.length}")

    def count(self, layout: Layout) -> Array:
        """[] length times the number of non-empty sequences, integer."""
        return count_true(layout.xp, layout.lengths() > 0) * self.length

    def weights(self, layout: Layout, per_token: bool, denominator: Array) -> Array:
        """[N] |y_i|/denominator, or as a token array 1/denominator."""
        if per_token:
            return layout.xp.where(layout.valid, 1.0 / denominator, 0.0)
        return layout.xp.astype(layout.lengths(), denominator.dtype) / denominator
