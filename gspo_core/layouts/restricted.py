"""A layout without some of its tokens."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from gspo_core._lib.array import namespace, shape_of, where_true
from gspo_core._lib.units import count_tokens
from gspo_core._lib.validation import check_layout
from gspo_core.types import Array, EachTurn, Layout

from .wrapped import Wrapped


class Narrowed(Wrapped):
    """The layout inside, without the tokens where `is_kept` is False; its values in masked slots do not matter."""

    @abstractmethod
    def is_kept(self) -> Array:
        """Token array, boolean: which tokens of the layout inside are left."""

    @property
    def valid(self) -> Array:
        """Slots that hold a token and are kept."""
        return self.layout.valid & self.is_kept()

    def lengths(self) -> Array:
        """[N] |y_i| in kept tokens, integer."""
        return count_tokens(self.layout, self.is_kept(), self.layout.lengths().dtype)

    def select(self, x: Array) -> Array:
        """The token array x with every other slot replaced by 0, whatever its content."""
        return where_true(self.xp, self.valid, x)

    def sum(self, x: Array) -> Array:
        """[N] sums of the token array x over each sequence's kept tokens."""
        return self.layout.sum(where_true(self.xp, self.is_kept(), x))

    def spread(self, x: Array) -> Array:
        """The [N] array x at every kept token of its sequence, 0 elsewhere."""
        return self.select(self.layout.spread(x))


@dataclass(frozen=True, eq=False)
class Restricted(Narrowed):
    """The layout without the tokens where `kept` is False: |y_i|, counts and default denominators shrink with it.

    `kept` is a boolean token array of the layout's shape; in masked slots it may be anything. The number of sequences
    stays: a sequence that loses all its tokens becomes an empty one, which contributes nothing and is not counted.

    Raises TypeError if `kept` is not a boolean array, ValueError if it has another shape.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> whole = Padded(np.array([[True, True, False], [True, False, False]]))
    >>> Restricted(whole, np.array([[True, False, True], [False, False, True]])).lengths().tolist()
    [1, 0]
    """

    layout: Layout
    """The layout of all tokens."""
    kept: Array
    """Token array, boolean: which of them are left."""

    def __post_init__(self) -> None:
        check_layout(self.layout)
        xp = namespace(kept=self.kept, layout=self.layout.valid)
        if not xp.isdtype(self.kept.dtype, "bool"):
            raise TypeError(f"kept: expected a boolean array, got dtype {self.kept.dtype}; write kept > 0")
        if shape_of(self.kept) != self.shape:
            raise ValueError(f"kept: expected the layout's shape {list(self.shape)}, got {list(shape_of(self.kept))}")

    def is_kept(self) -> Array:
        """`kept`."""
        return self.kept

    @property
    def turns(self) -> EachTurn | None:
        """The turns without the tokens that are not kept, if the layout has turns."""
        turns = self.layout.turns
        return None if turns is None else EachTurn(Restricted(turns.each, self.kept), turns.count)
