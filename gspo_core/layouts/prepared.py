"""A layout with its lengths precomputed, valid for one loss evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from gspo_core.types import Array, EachTurn, Layout, Namespace

from .wrapped import Wrapped


@dataclass(frozen=True, eq=False)
class Prepared(Wrapped):
    """The layout inside, with its array library, lengths and turns computed beforehand; made by `prepared`."""

    library: Namespace
    whole_lengths: Array
    """[N] |y_i|, over all ranks if the layout is sharded; integer."""
    has_tokens: Array
    """[N] boolean: |y_i| > 0."""
    divisors: Array
    """[N] |y_i|, 1 for an empty sequence, in the dtype of the loss."""
    prepared_turns: EachTurn | None
    """The turns, themselves prepared; None if the layout has none."""

    @property
    def xp(self) -> Namespace:
        """The namespace of the layout inside."""
        return self.library

    @property
    def turns(self) -> EachTurn | None:
        """The turns, themselves prepared."""
        return self.prepared_turns

    @property
    def local(self) -> Layout:
        """This rank's part, which has other lengths and is not prepared; the prepared layout unless it is sharded."""
        return self if self.layout.local is self.layout else self.layout.local

    def lengths(self) -> Array:
        """[N] |y_i| in tokens, integer."""
        return self.whole_lengths

    def non_empty(self) -> Array:
        """[N] boolean: the sequence has a token."""
        return self.has_tokens

    def safe_lengths(self, like: Array) -> Array:
        """[N] |y_i| in the dtype of `like`, 1 for an empty sequence."""
        return self.divisors if self.divisors.dtype == like.dtype else super().safe_lengths(like)

    def sum_selected(self, x: Array) -> Array:
        """[N] sums of a token array that is 0 in masked slots, as every token array of a loss is."""
        return self.layout.sum_all_slots(x)


def prepared(layout: Layout, like: Array) -> Prepared:
    """The same layout for one evaluation in the dtype of `like`: its lengths, and those of its turns, are counted once."""
    if isinstance(layout, Prepared) and layout.divisors.dtype == like.dtype:
        return layout
    xp, lengths, turns = layout.xp, layout.lengths(), layout.turns
    there = lengths > 0
    return Prepared(
        layout=layout,
        library=xp,
        whole_lengths=lengths,
        has_tokens=there,
        divisors=xp.where(there, xp.astype(lengths, like.dtype), 1.0),
        prepared_turns=None if turns is None else EachTurn(prepared(turns.each, like), turns.count),
    )
