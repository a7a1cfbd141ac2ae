"""One sequence per row, with a mask of the slots that hold its tokens."""

from __future__ import annotations

from dataclasses import dataclass

from gspo_core._lib.array import count_true, namespace, shape_of, where_true
from gspo_core.types import Array, Layout, Namespace


@dataclass(frozen=True, eq=False)
class Padded(Layout):
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
        """[N, T] x with masked slots replaced by 0, whatever their content (NaN included)."""
        return where_true(self.xp, self.mask, x)

    def sum(self, x: Array) -> Array:
        """[N] row sums of x [N, T] over valid slots."""
        return self.xp.sum(self.select(x), axis=-1)

    def sum_all_slots(self, x: Array) -> Array:
        """`sum` of an x that is 0 in masked slots."""
        return self.xp.sum(x, axis=-1)

    def spread(self, x: Array) -> Array:
        """[N, T] the row's entry of x [N] at each of its tokens, 0 in masked slots."""
        return self.select(x[:, None])
