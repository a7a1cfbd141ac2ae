"""Sequences whose tokens are spread over ranks (context parallelism)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gspo_core._lib.array import is_array, shape_of
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

    Raises: TypeError if `layout` is none, or `sum_over_shards` is a class, no function, or one that returns no array;
    ValueError if it returns one of another shape. Ranks with unequal numbers of sequences cannot be seen from here:
    `gspo_torch.sum_over` refuses them.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> both = sharded(Padded(np.array([[True, False]])), lambda x: x + 3)  # the other rank has three tokens
    >>> both.lengths().tolist()
    [4]
    """
    check_layout(layout)
    if isinstance(sum_over_shards, type):
        raise TypeError(f"sum_over_shards: expected a function, got the class {sum_over_shards.__name__}")
    if not callable(sum_over_shards):
        raise TypeError(f"sum_over_shards: expected a function, got {type(sum_over_shards).__name__}")
    lengths = _summed(sum_over_shards, layout.lengths())
    turns = layout.turns
    whole = None if turns is None else EachTurn(sharded(turns.each, sum_over_shards), turns.count)
    return Sharded(layout, sum_over_shards, lengths, whole)


def _summed(sum_over_shards: Callable[[Array], Array], lengths: Array) -> Array:
    """[N] the lengths over all ranks; TypeError or ValueError for a function that makes something else of them."""
    whole = sum_over_shards(lengths)
    if not is_array(whole):
        raise TypeError(f"sum_over_shards: expected a function that returns an array, got {type(whole).__name__} from it")
    if shape_of(whole) != shape_of(lengths):
        shapes = f"{list(shape_of(lengths))}, the shape of its argument, got {list(shape_of(whole))}"
        raise ValueError(f"sum_over_shards: expected a function that returns {shapes}")
    return whole
