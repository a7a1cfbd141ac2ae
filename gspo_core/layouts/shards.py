"""Sequences whose tokens are spread over ranks (context parallelism)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gspo_core._lib.validation import check_layout
from gspo_core.types import Array, EachTurn, Layout

from .wrapped import Wrapped


@dataclass(frozen=True, eq=False)
class Sharded(Wrapped):
    """One shard of sequences whose tokens are spread over ranks (context parallelism); made by `sharded`.

    Token arrays are this shard's own; per-sequence arrays [N] are whole, and equal on every rank.
    """

    layout: Layout
    """The layout of this shard's tokens; the same N on every rank."""
    sum_over_shards: Callable[[Array], Array]
    """[N] of this rank ↦ [N] added up over ranks."""
    whole_lengths: Array
    """[N] |y_i| over all ranks, integer."""
    whole_turns: EachTurn | None = None
    """The turns over all ranks, if the shard knows its own."""

    @property
    def turns(self) -> EachTurn | None:
        """The turns over all ranks."""
        return self.whole_turns

    @property
    def local(self) -> Layout:
        """This shard alone."""
        return self.layout.local

    def lengths(self) -> Array:
        """[N] |y_i| over all ranks, integer."""
        return self.whole_lengths

    def sum(self, x: Array) -> Array:
        """[N] sums over each sequence's tokens on all ranks: one exchange of N numbers."""
        return self.sum_over_shards(self.layout.sum(x))

    def sum_all_slots(self, x: Array) -> Array:
        """`sum` of an x that is 0 in masked slots."""
        return self.sum_over_shards(self.layout.sum_all_slots(x))


def sharded(layout: Layout, sum_over_shards: Callable[[Array], Array]) -> Sharded:
    """A layout whose sequences are spread over ranks: Σ_t and |y_i| are added up over them, nothing else is exchanged.

    Args:
        layout: this rank's part, with the same number of sequences on every rank.
        sum_over_shards: takes an [N] array and returns its sum over ranks (an all-reduce, `lax.psum`); it needs no autodiff,
            since the weight is closed form.

    Returns: a layout with the rank's own token arrays and whole per-sequence arrays.

    GSPO exchanges N lengths, once per layout, and N sums of log ratios, once per loss. A ratio whose units are tokens
    exchanges its N sums of gains instead, and a gate that looks at whole sequences N sums more; with K turns (`Turns`) it is
    N · K lengths and sums in addition. The loss value is whole on every rank, logp_grad is the rank's own part.

    Raises: TypeError if `layout` is none, or `sum_over_shards` cannot be called.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> both = sharded(Padded(np.array([[True, False]])), lambda x: x + 3)  # the other rank has three tokens
    >>> both.lengths().tolist()
    [4]
    """
    check_layout(layout)
    if not callable(sum_over_shards):
        raise TypeError(f"sum_over_shards: expected a function, got {type(sum_over_shards).__name__}")
    turns = layout.turns
    whole = None if turns is None else EachTurn(sharded(turns.each, sum_over_shards), turns.count)
    return Sharded(layout, sum_over_shards, sum_over_shards(layout.lengths()), whole)
