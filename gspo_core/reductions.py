"""Reductions: non-negative weights per unit over an explicit denominator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._array import count_true
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
        return layout.spread(share / xp.where(lengths > 0, lengths, 1.0))


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
