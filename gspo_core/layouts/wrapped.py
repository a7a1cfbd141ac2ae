"""A layout that is made from another one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gspo_core.types import Array, EachTurn, Layout, Namespace


@dataclass(frozen=True, eq=False)
class Wrapped(Layout):
    """Another layout, but for the members that a subclass defines anew."""

    layout: Layout

    @property
    def xp(self) -> Namespace:
        """The namespace of the layout inside."""
        return self.layout.xp

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a token array."""
        return self.layout.shape

    @property
    def num_sequences(self) -> int:
        """N, empty sequences included."""
        return self.layout.num_sequences

    @property
    def valid(self) -> Array:
        """Token array, boolean: slots that hold a token of the policy."""
        return self.layout.valid

    @property
    def turns(self) -> EachTurn | None:
        """The turns of the layout inside."""
        return self.layout.turns

    @property
    def row_weights(self) -> Array | None:
        """Those of the layout inside."""
        return self.layout.row_weights

    @property
    def local(self) -> Layout:
        """The same around this rank's part of the layout inside."""
        part = self.layout.local
        return self if part is self.layout else replace(self, layout=part)

    def lengths(self) -> Array:
        """[N] |y_i| in tokens, integer."""
        return self.layout.lengths()

    def select(self, x: Array) -> Array:
        """The token array x with masked slots replaced by 0."""
        return self.layout.select(x)

    def sum(self, x: Array) -> Array:
        """[N] sums of the token array x over each sequence's own tokens."""
        return self.layout.sum(x)

    def spread(self, x: Array) -> Array:
        """The [N] array x at every token of its sequence, 0 in masked slots."""
        return self.layout.spread(x)
