"""A layout with turns: which turn of its dialogue each token belongs to."""

from __future__ import annotations

from dataclasses import dataclass

from gspo_core._lib.array import arange_like, is_integer, namespace, shape_of, signed
from gspo_core._lib.checks import as_whole
from gspo_core._lib.units import EXACT
from gspo_core._lib.validation import check_layout
from gspo_core.types import Array, EachTurn, Layout

from .packed import Packed
from .restricted import Narrowed, Restricted
from .shards import Sharded, sharded
from .weighted import Weighted
from .wrapped import Wrapped


@dataclass(frozen=True, eq=False)
class Turns(Narrowed):
    """The layout, and which turn of its dialogue each token belongs to: for Turn(), TurnToken() and TurnMean().

    Sequences stay sequences: |y_i|, counts, advantages [N] and every objective that does not use turns are those of the
    layout. Turn ids are arrays and an objective is a value, static under jit; so they stand here, beside the mask, and not
    in the ratio. `turns.each` is the same tokens with every turn as a sequence of its own: in that layout GSPO itself
    weighs all turns of the batch equally, however they are spread over dialogues, with N · K advantages.

    `turn_ids` is a token array of integers: 0 .. num_turns − 1, the turn of each token. As in `Packed`, any other number
    marks a slot that is no token of the policy (tool output between turns), and the layout's own masked slots are inert.
    A turn need not be contiguous. `num_turns` K is a Python number of at least 1, so that shapes are static under jit;
    dialogues with fewer turns have empty ones, which contribute nothing and are not counted.

    Raises TypeError if `layout` is none or the ids are not integers, ValueError if they have another shape than the layout
    or num_turns is below 1.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> dialogues = Turns(Padded(np.ones((2, 4), dtype=bool)), np.array([[0, 0, -1, 1], [0, 0, 0, 0]]), 2)
    >>> dialogues.lengths().tolist(), dialogues.turns.each.lengths().tolist()
    ([3, 4], [2, 1, 4, 0])
    """

    layout: Layout
    """Where the policy's tokens stand: Padded, Packed, sharded(...), Restricted or Weighted."""
    turn_ids: Array
    """Token array, integer: the turn of each token."""
    num_turns: int
    """K, the largest number of turns that a sequence can have."""

    def __post_init__(self) -> None:
        check_layout(self.layout)
        xp = namespace(turn_ids=self.turn_ids, layout=self.layout.valid)
        if not is_integer(xp, self.turn_ids):
            raise TypeError(f"turn_ids: expected integers, got dtype {self.turn_ids.dtype}")
        if shape_of(self.turn_ids) != self.shape:
            raise ValueError(f"turn_ids: expected the layout's shape {list(self.shape)}, got {list(shape_of(self.turn_ids))}")
        object.__setattr__(self, "turn_ids", signed(xp, self.turn_ids))
        object.__setattr__(self, "num_turns", as_whole("num_turns", self.num_turns, 1))

    def is_kept(self) -> Array:
        """Token array, boolean: slots in some turn."""
        return (self.turn_ids >= 0) & (self.turn_ids < self.num_turns)

    @property
    def turns(self) -> EachTurn:
        """The same tokens, with every turn as a sequence of its own."""
        return EachTurn(_each_turn(self.layout, self.turn_ids, self.is_kept(), self.num_turns), self.num_turns)


@dataclass(frozen=True, eq=False)
class Folded(Wrapped):
    """A packed layout whose token arrays have another shape."""

    layout: Packed
    folded_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a token array."""
        return self.folded_shape

    @property
    def valid(self) -> Array:
        """Token array, boolean: slots that hold a token of the policy."""
        return self.xp.reshape(self.layout.valid, self.shape)

    def select(self, x: Array) -> Array:
        """The token array x with masked slots replaced by 0."""
        return self.xp.where(self.valid, x, 0.0)

    def sum(self, x: Array) -> Array:
        """[N] sums of the token array x over each sequence's own tokens."""
        return self.layout.sum(self.xp.reshape(x, (-1,)))

    def spread(self, x: Array) -> Array:
        """The [N] array x at every token of its sequence, 0 in masked slots."""
        return self.xp.reshape(self.layout.spread(x), self.shape)


def _spread_numbers(layout: Layout, numbers: Array) -> Array:
    """Token array of int32: the [N] numbers 0 … N − 1 at every token. A layout spreads floats, which hold 2²⁴ of them."""
    xp = layout.xp

    def spread(x: Array) -> Array:
        return xp.astype(layout.spread(xp.astype(x, xp.float32)), xp.int32)

    if layout.num_sequences <= EXACT:
        return spread(numbers)
    return spread(numbers // EXACT) * EXACT + spread(numbers % EXACT)


def _each_turn(layout: Layout, turn_ids: Array, in_a_turn: Array, num_turns: int) -> Layout:
    """N · num_turns sequences. Shards and restrictions stay outside, so that sums are still exchanged and restricted."""
    if isinstance(layout, Sharded):
        return sharded(_each_turn(layout.layout, turn_ids, in_a_turn, num_turns), layout.sum_over_shards)
    if isinstance(layout, (Restricted, Weighted)):
        return Restricted(_each_turn(layout.layout, turn_ids, in_a_turn, num_turns), layout.is_kept())
    xp = layout.xp
    turn = xp.astype(xp.where(in_a_turn, turn_ids, 0), xp.int32)
    sequence = _spread_numbers(layout, arange_like(xp, layout.num_sequences, turn))
    ids = xp.where(layout.valid & in_a_turn, sequence * num_turns + turn, -1)
    return Folded(Packed(xp.reshape(ids, (-1,)), layout.num_sequences * num_turns), layout.shape)
