"""Sequences whose tokens are spread over ranks (context parallelism)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gspo_core._lib.validation import check_layout
from gspo_core.types import Array, EachTurn, Layout, Namespace


@dataclass(frozen=True, eq=False)
class Sharded:
    """One shard of sequences whose tokens are spread over ranks (context parallelism); made by `sharded`.

    Token arrays are this shard's own; per-sequence arrays [N] are whole, and equal on every rank.
    """

    local: Layout
    """Where this shard's tokens stand; the same N on every rank."""
    sum_over_shards: Callable[[Array], Array]
    """[N] of this rank ↦ [N] added up over ranks."""
    whole_lengths: Array
    """[N] |y_i| over all ranks, integer."""
    turns: EachTurn | None = None
    """The turns over all ranks, if the shard knows its own."""

    @property
    def xp(self) -> Namespace:
        """The namespace of the shard's arrays."""
        return self.local.xp

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of this shard's token arrays."""
        return self.local.shape

    @property
    def num_sequences(self) -> int:
        """N, sequences without a token on this rank included."""
        return self.local.num_sequences

    @property
    def valid(self) -> Array:
        """This shard's slots that hold a token."""
        return self.local.valid

    def lengths(self) -> Array:
        """[N] |y_i| over all ranks, integer."""
        return self.whole_lengths

    def select(self, x: Array) -> Array:
        """This shard's token array x with masked slots replaced by 0."""
        return self.local.select(x)

    def sum(self, x: Array) -> Array:
        """[N] sums over each sequence's tokens on all ranks: one exchange of N numbers."""
        return self.sum_over_shards(self.local.sum(x))

    def spread(self, x: Array) -> Array:
        """This shard's tokens with their sequence's entry of x [N]."""
        return self.local.spread(x)


def measured(layout: Layout) -> Sharded:
    """The same layout with its lengths counted once and for all: a shard that is the whole."""
    return layout if isinstance(layout, Sharded) else _over_shards(layout, _as_it_is)


def _as_it_is(x: Array) -> Array:
    return x


def _over_shards(layout: Layout, sum_over_shards: Callable[[Array], Array]) -> Sharded:
    mine: EachTurn | None = getattr(layout, "turns", None)
    turns = None
    if mine is not None:
        # Turns whose lengths are whole already: the sequences were sharded before they were told their turns.
        each = mine.each if isinstance(mine.each, Sharded) else _over_shards(mine.each, sum_over_shards)
        turns = EachTurn(each, mine.count)
    return Sharded(layout, sum_over_shards, sum_over_shards(layout.lengths()), turns)


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
    return _over_shards(layout, sum_over_shards)
