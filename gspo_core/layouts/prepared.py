"""A layout for the time of one loss: what everybody asks of it has been looked up."""

from __future__ import annotations

from dataclasses import dataclass

from gspo_core.types import Array, Layout, Namespace

from .shards import Sharded, measured


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured(Sharded):
    """A shard whose array library and lengths are at hand."""

    library: Namespace
    measured_non_empty: Array
    """[N] boolean, see `_units.non_empty`."""
    measured_safe_lengths: Array
    """[N] in the dtype of the loss, see `_units.safe_lengths`."""

    @property
    def xp(self) -> Namespace:
        """The namespace of the shard's arrays."""
        return self.library

    def measured_sum(self, x: Array) -> Array:
        """`sum` of an x that is 0 in masked slots, see `_units.sum_selected`."""
        # Only a class that says so itself: a subclass of it may have changed `sum`, and then that is what counts.
        quick = "sum_selected" in vars(type(self.local))
        mine: Array = self.local.sum_selected(x) if quick else self.local.sum(x)  # type: ignore[attr-defined]
        return self.sum_over_shards(mine)


def for_one_loss(layout: Layout, like: Array) -> Measured:
    """The same layout for the time of one loss in the dtype of `like`, its lengths counted once: a shard that is the whole."""
    shard = measured(layout)
    xp, lengths = layout.xp, shard.whole_lengths
    there = lengths > 0
    return Measured(
        local=shard.local,
        sum_over_shards=shard.sum_over_shards,
        whole_lengths=lengths,
        turns=shard.turns,
        library=xp,
        measured_non_empty=there,
        measured_safe_lengths=xp.where(there, xp.astype(lengths, like.dtype), 1.0),
    )
