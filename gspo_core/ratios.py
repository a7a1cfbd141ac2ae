"""Importance ratios: which log ratio a unit has, and how its gradient goes back to the tokens.

d_it = logp_it − old_logp_it. Each ratio is three linear maps of d (see `types.Ratio`); that GSPO-token and GSPO share
the first and differ in the other two is all there is to the paper's stop-gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ._units import mean_over_tokens, safe_lengths
from .types import Array, Layout


@dataclass(frozen=True)
class Token:
    """log w_it = d_it, one ratio per token; pull-back g ↦ g.

    Source: GRPO, arXiv 2402.03300, eq. 3 (PPO's ratio).
    """

    per_token: ClassVar[bool] = True

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """Token array: d itself."""
        return layout.select(d)

    def push_forward(self, d: Array, layout: Layout) -> Array:
        """Token array: d itself."""
        return layout.select(d)

    def pull_back(self, g: Array, layout: Layout) -> Array:
        """Token array: g itself."""
        return layout.select(g)


@dataclass(frozen=True)
class Sequence:
    """log s_i = (1/|y_i|) Σ_t d_it, one ratio per sequence; pull-back g_i ↦ g_i/|y_i| on every token.

    There is no token axis to sum over, so a length-weighted mean cannot be written by accident.
    Source: GSPO, arXiv 2507.18071, eq. 7 and 10.
    """

    per_token: ClassVar[bool] = False

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """[N] log s_i, 0 for an empty sequence."""
        return mean_over_tokens(d, layout)

    def push_forward(self, d: Array, layout: Layout) -> Array:
        """[N] the mean of d over each sequence."""
        return mean_over_tokens(d, layout)

    def pull_back(self, g: Array, layout: Layout) -> Array:
        """Token array: g_i/|y_i|."""
        return layout.spread(g / safe_lengths(g, layout))


@dataclass(frozen=True)
class SequenceToken:
    """log s_it = log s_i at every token, but moving with its own token only: s_it = sg[s_i] · π(y_it)/sg[π(y_it)].

    Pull-back g_it ↦ g_it, so that each token may have its own advantage. Source: GSPO, arXiv 2507.18071, eq. 14 and 17.
    """

    per_token: ClassVar[bool] = True

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """Token array: log s_i at every token of sequence i."""
        return layout.spread(mean_over_tokens(d, layout))

    def push_forward(self, d: Array, layout: Layout) -> Array:
        """Token array: d itself (what the stop-gradients leave)."""
        return layout.select(d)

    def pull_back(self, g: Array, layout: Layout) -> Array:
        """Token array: g itself."""
        return layout.select(g)


@dataclass(frozen=True)
class Product:
    """log ρ_i = Σ_t d_it, the sequence's true importance ratio; pull-back g_i ↦ g_i on every token.

    No length normalisation: log ρ spreads like √|y_i|, so it needs a gate or a surrogate that bounds it.
    Source: FSPO, arXiv 2509.09177.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> Product().log_ratio(np.array([[0.25, 0.5], [1.0, 9.0]]), Padded(np.array([[True, True], [True, False]]))).tolist()
    [0.75, 1.0]
    """

    per_token: ClassVar[bool] = False

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """[N] log ρ_i, 0 for an empty sequence."""
        return layout.sum(d)

    def push_forward(self, d: Array, layout: Layout) -> Array:
        """[N] the sum of d over each sequence."""
        return layout.sum(d)

    def pull_back(self, g: Array, layout: Layout) -> Array:
        """Token array: g_i."""
        return layout.spread(g)


@dataclass(frozen=True)
class ProductToken:
    """log ρ_i at every token, but moving with its own token only: sg[ρ_i] · π(y_it)/sg[π(y_it)].

    Pull-back g_it ↦ g_it. To Product what SequenceToken is to Sequence. Source: VESPO, arXiv 2602.10693, whose weight on
    a token is a function of ρ_i.
    """

    per_token: ClassVar[bool] = True

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """Token array: log ρ_i at every token of sequence i."""
        return layout.spread(layout.sum(d))

    def push_forward(self, d: Array, layout: Layout) -> Array:
        """Token array: d itself (what the stop-gradients leave)."""
        return layout.select(d)

    def pull_back(self, g: Array, layout: Layout) -> Array:
        """Token array: g itself."""
        return layout.select(g)
