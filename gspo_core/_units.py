"""What ratios, reductions and gates share: lengths that can be divided by, and the mean over a sequence's tokens."""

from __future__ import annotations

from .types import Array, Layout


def safe_lengths(like: Array, layout: Layout) -> Array:
    """[N] |y_i| in the dtype of `like`, 1 for an empty sequence."""
    lengths = layout.xp.astype(layout.lengths(), like.dtype)
    return layout.xp.where(lengths > 0, lengths, 1.0)


def mean_over_tokens(d: Array, layout: Layout) -> Array:
    """[N] (1/|y_i|) Σ_t d_it, 0 for an empty sequence."""
    return layout.sum(d) / safe_lengths(d, layout)
