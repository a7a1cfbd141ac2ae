"""Sequences one after another in a single row, without padding."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gspo_core._lib.array import arange_like, is_integer, namespace, segment_sum, shape_of, signed, values_at_hand, where_true
from gspo_core._lib.checks import as_whole
from gspo_core.types import Array, Layout, Namespace


@dataclass(frozen=True, eq=False)
class Packed(Layout):
    """Sequences one after another, without padding: token arrays are [T].

    `segment_ids` [T], integer, names the sequence of each slot's token. Any number outside [0, num_sequences) marks a slot
    that is no token of the policy (prompt, tool output, padding at the end). Segments may be empty, and need not be contiguous.
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
        object.__setattr__(self, "segment_ids", signed(self.xp, self.segment_ids))
        object.__setattr__(self, "num_sequences", as_whole("num_sequences", self.num_sequences, 0))

    @staticmethod
    def from_cu_seqlens(cu_seqlens: Array, num_tokens: int, mask: Array | None = None) -> Packed:
        """Segments [cu_seqlens[i], cu_seqlens[i+1]), as flash-attention has them.

        Args:
            cu_seqlens: [N + 1] integers, ascending. Slots before the first one and from the last one on hold nothing.
            num_tokens: T, the length of the token arrays.
            mask: [T] boolean, True where the policy produced the token; None means everywhere.

        Raises: TypeError for a wrong dtype, ValueError for a wrong shape and for offsets that do not ascend from 0 or more to
        at most num_tokens, each naming the argument. Offsets that are traced or on another device are not read: wrong ones give
        a layout without a token, whose loss is 0 and whose sequences `batch_metrics` counts as empty.

        >>> import numpy as np
        >>> Packed.from_cu_seqlens(np.array([0, 2, 2, 3]), 4).segment_ids.tolist()
        [0, 0, 2, -1]
        """
        xp = namespace(cu_seqlens=cu_seqlens)
        if not is_integer(xp, cu_seqlens):
            raise TypeError(f"cu_seqlens: expected integers, got dtype {cu_seqlens.dtype}")
        if len(shape_of(cu_seqlens)) != 1 or shape_of(cu_seqlens)[0] < 1:
            raise ValueError(f"cu_seqlens: expected shape [N + 1], got {list(shape_of(cu_seqlens))}")
        num_tokens = as_whole("num_tokens", num_tokens, 0)
        cu_seqlens = signed(xp, cu_seqlens)
        known = values_at_hand(xp, cu_seqlens)
        _check_offsets(known, num_tokens)
        num_sequences = shape_of(cu_seqlens)[0] - 1
        slots = arange_like(xp, num_tokens, cu_seqlens)
        # How many segments begin at or before a slot: one more than the number of its own segment, empty ones skipped.
        ids = xp.astype(xp.searchsorted(cu_seqlens, slots, side="right"), cu_seqlens.dtype) - 1
        valid = (ids >= 0) & (ids < num_sequences)
        if known is None:
            ascend = xp.all(cu_seqlens[1:] >= cu_seqlens[:-1])
            valid = valid & ascend & (cu_seqlens[0] >= 0) & (cu_seqlens[-1] <= num_tokens)
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
        """[T] x with slots of no sequence replaced by 0, whatever their content (NaN included)."""
        return where_true(self.xp, self.valid, x)

    def sum(self, x: Array) -> Array:
        """[N] sums of x [T] over each segment's slots, added up one by one: no difference of running sums."""
        return self._segment_sum(self.select(x))

    def sum_all_slots(self, x: Array) -> Array:
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


def _check_offsets(offsets: Any, num_tokens: int) -> None:
    """ValueError unless offsets, where their values are known, cut num_tokens slots into segments."""
    if offsets is None:
        return
    first, last = int(offsets[0]), int(offsets[-1])
    if first < 0 or last > num_tokens or (offsets[1:] < offsets[:-1]).any():
        fall = next((f", with {a} before {b}" for a, b in pairwise(offsets.tolist()) if b < a), "")
        raise ValueError(
            f"cu_seqlens: expected offsets that ascend from 0 or more to at most num_tokens = {num_tokens}, got {first} to "
            f"{last}{fall}"
        )
