"""Layouts: where the policy's tokens stand in an array."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ._array import arange_like, count_true, is_integer, namespace, segment_sum, shape_of, where_true
from ._checks import is_whole
from ._door import check_layout
from .types import Array, EachTurn, Layout, Namespace


@dataclass(frozen=True, eq=False)
class Padded:
    """One sequence per row: token arrays are [N, T].

    `mask` [N, T], boolean, is True where the policy produced the token. Holes are legal (tool output, left padding),
    and so are empty rows. |y_i| is the sum of the mask: never a width or a span.

    Raises TypeError if the mask is not a boolean array, ValueError if it has not two axes.

    >>> import numpy as np
    >>> Padded(np.array([[True, True, False], [False, False, False]])).lengths().tolist()
    [2, 0]
    """

    mask: Array

    def __post_init__(self) -> None:
        xp = self.xp
        if not xp.isdtype(self.mask.dtype, "bool"):
            raise TypeError(
                f"mask: expected a boolean array, got dtype {self.mask.dtype}; write mask > 0 to say which slots are tokens"
            )
        if len(self.shape) != 2:
            raise ValueError(f"mask: expected shape [N, T], got {list(self.shape)}")

    @property
    def xp(self) -> Namespace:
        """The namespace of the mask."""
        return namespace(mask=self.mask)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, T)."""
        return shape_of(self.mask)

    @property
    def num_sequences(self) -> int:
        """N, empty rows included."""
        return self.shape[0]

    @property
    def valid(self) -> Array:
        """[N, T] the mask."""
        return self.mask

    def lengths(self) -> Array:
        """[N] |y_i| in tokens, integer."""
        return count_true(self.xp, self.mask, axis=-1)

    def select(self, x: Array) -> Array:
        """[N, T] x with masked slots replaced by 0, whatever stood there (NaN included)."""
        return where_true(self.xp, self.mask, x)

    def sum(self, x: Array) -> Array:
        """[N] row sums of x [N, T] over valid slots."""
        return self.xp.sum(self.select(x), axis=-1)

    def sum_selected(self, x: Array) -> Array:
        """`sum` of an x that is 0 in masked slots."""
        return self.xp.sum(x, axis=-1)

    def spread(self, x: Array) -> Array:
        """[N, T] the row's entry of x [N] at each of its tokens, 0 in masked slots."""
        return self.select(x[:, None])


@dataclass(frozen=True, eq=False)
class Packed:
    """Sequences one after another, without padding: token arrays are [T].

    `segment_ids` [T], integer, says whose token a slot holds. Any number outside [0, num_sequences) marks a slot that is
    no token of the policy (prompt, tool output, padding at the end). Segments may be empty, and need not be contiguous.
    `num_sequences` is a Python number, so that shapes are static under jit.

    Raises TypeError if the ids are not integers, ValueError if they have not one axis or num_sequences is negative.

    >>> import numpy as np
    >>> Packed(np.array([0, 0, -1, 2]), 3).lengths().tolist()
    [2, 0, 1]
    """

    segment_ids: Array
    num_sequences: int

    def __post_init__(self) -> None:
        if not is_integer(self.xp, self.segment_ids):
            raise TypeError(f"segment_ids: expected integers, got dtype {self.segment_ids.dtype}")
        if len(self.shape) != 1:
            raise ValueError(f"segment_ids: expected shape [T], got {list(self.shape)}")
        if not is_whole(self.num_sequences, 0):
            raise ValueError(f"num_sequences: expected a whole number of at least 0, got {self.num_sequences!r}")

    @staticmethod
    def from_cu_seqlens(cu_seqlens: Array, num_tokens: int, mask: Array | None = None) -> Packed:
        """Segments [cu_seqlens[i], cu_seqlens[i+1]), as flash-attention has them.

        Args:
            cu_seqlens: [N + 1] integers, ascending from 0. Slots from the last one on hold nothing.
            num_tokens: T, the length of the token arrays.
            mask: [T] boolean, True where the policy produced the token; None means everywhere.

        Raises: TypeError for a wrong dtype, ValueError for a wrong shape, each naming the argument.

        >>> import numpy as np
        >>> Packed.from_cu_seqlens(np.array([0, 2, 2, 3]), 4).segment_ids.tolist()
        [0, 0, 2, -1]
        """
        xp = namespace(cu_seqlens=cu_seqlens)
        if not is_integer(xp, cu_seqlens):
            raise TypeError(f"cu_seqlens: expected integers, got dtype {cu_seqlens.dtype}")
        if len(shape_of(cu_seqlens)) != 1 or shape_of(cu_seqlens)[0] < 1:
            raise ValueError(f"cu_seqlens: expected shape [N + 1], got {list(shape_of(cu_seqlens))}")
        if not is_whole(num_tokens, 0):
            raise ValueError(f"num_tokens: expected a whole number of at least 0, got {num_tokens!r}")
        num_sequences = shape_of(cu_seqlens)[0] - 1
        slots = arange_like(xp, num_tokens, cu_seqlens)
        # How many segments end at or before a slot: the number of its own segment, empty ones skipped.
        ids = xp.astype(xp.searchsorted(cu_seqlens[1:], slots, side="right"), cu_seqlens.dtype)
        valid = ids < num_sequences
        if mask is not None:
            namespace(mask=mask, cu_seqlens=cu_seqlens)
            if not xp.isdtype(mask.dtype, "bool"):
                raise TypeError(f"mask: expected a boolean array, got dtype {mask.dtype}; write mask > 0")
            if shape_of(mask) != (num_tokens,):
                raise ValueError(f"mask: expected shape [{num_tokens}], got {list(shape_of(mask))}")
            valid = valid & mask
        return Packed(xp.where(valid, ids, -1), num_sequences)

    @property
    def xp(self) -> Namespace:
        """The namespace of the segment ids."""
        return namespace(segment_ids=self.segment_ids)

    @property
    def shape(self) -> tuple[int, ...]:
        """(T,)."""
        return shape_of(self.segment_ids)

    @property
    def valid(self) -> Array:
        """[T] slots that hold a token of a sequence."""
        return (self.segment_ids >= 0) & (self.segment_ids < self.num_sequences)

    def lengths(self) -> Array:
        """[N] |y_i| in tokens, integer."""
        return self._segment_sum(self.xp.astype(self.valid, self.xp.int32))

    def select(self, x: Array) -> Array:
        """[T] x with slots of no sequence replaced by 0, whatever stood there (NaN included)."""
        return where_true(self.xp, self.valid, x)

    def sum(self, x: Array) -> Array:
        """[N] sums of x [T] over each segment's slots, added up one by one: no difference of running sums."""
        return self._segment_sum(self.select(x))

    def sum_selected(self, x: Array) -> Array:
        """`sum` of an x that is 0 in slots of no sequence."""
        return self._segment_sum(x)

    def spread(self, x: Array) -> Array:
        """[T] the segment's entry of x [N] at each of its tokens, 0 elsewhere."""
        if self.num_sequences == 0:
            return self.select(self.xp.zeros_like(self.segment_ids, dtype=x.dtype))
        return self.select(self.xp.take(x, self._safe_ids(), axis=0))

    def _safe_ids(self) -> Array:
        return self.xp.where(self.valid, self.segment_ids, 0)

    def _segment_sum(self, x: Array) -> Array:
        # Slots of no sequence carry 0 into segment 0, which must exist even if there is no sequence at all.
        return segment_sum(self.xp, x, self._safe_ids(), max(1, self.num_sequences))[: self.num_sequences]


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
    >>> both = sharded(Padded(np.array([[True, False]])), lambda x: x + 3)  # the other rank has three tokens
    >>> both.lengths().tolist()
    [4]
    """
    check_layout(layout)
    if not callable(sum_over_shards):
        raise TypeError(f"sum_over_shards: expected a function, got {type(sum_over_shards).__name__}")
    return _over_shards(layout, sum_over_shards)
