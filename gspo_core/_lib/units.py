"""Helpers of ratios, reductions and gates: means over tokens, sums over turns."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

from gspo_core.types import Array, EachTurn, Layout, Namespace, Ratio, Reduction

from .array import arange_like


def at_least_one(xp: Namespace, counts: Array, like: Array) -> Array:
    """Counts that can be divided by, in the dtype of `like`: 1 in place of 0."""
    counts = xp.astype(counts, like.dtype)
    return xp.where(counts > 0, counts, 1.0)


EXACT = 2**24
"""Up to here a float32 holds every whole number."""


def count_tokens(layout: Layout, where: Array, dtype: Any) -> Array:
    """[N] integers of a dtype: how many tokens of each sequence are True in a boolean token array, in rows of any length."""
    xp, length = layout.xp, layout.shape[-1]

    def counted(some: Array) -> Array:
        return xp.astype(layout.sum(xp.astype(some, xp.float32)), dtype)

    if length <= EXACT:
        return counted(where)
    part = xp.broadcast_to(arange_like(xp, length, xp.astype(where[..., :1], xp.int32)) // EXACT, layout.shape)
    return reduce(add, [counted(where & (part == k)) for k in range(1 + (length - 1) // EXACT)])


def mean_over_tokens(d: Array, layout: Layout) -> Array:
    """[N] (1/|y_i|) Σ_t d_it, 0 for an empty sequence."""
    return layout.sum(d) / layout.safe_lengths(d)


def is_per_turn(ratio: Ratio) -> bool:
    """Whether the log ratio is a turn's: then units are turns, or the tokens of turns."""
    return bool(getattr(ratio, "per_turn", False))


def has_turn_units(ratio: Ratio) -> bool:
    """Whether there is one ratio per turn."""
    return is_per_turn(ratio) and not ratio.per_token


def turns_of(layout: Layout, who: Any) -> EachTurn:
    """The layout's turns; TypeError names the ratio or reduction that needs them."""
    turns = layout.turns
    if turns is None:
        raise TypeError(f"layout: {who} needs a layout that knows its turns; wrap yours: Turns(layout, turn_ids, num_turns)")
    return turns


def flat(x: Array, layout: Layout) -> Array:
    """[N · K], the order of `EachTurn.each`, from [N, K]."""
    return layout.xp.reshape(x, (-1,))


def by_turn(x: Array, turns: EachTurn) -> Array:
    """[N, K] from [N · K]."""
    total = turns.each.num_sequences
    return turns.each.xp.reshape(x, (total // turns.count, turns.count))


def sum_by_turn(x: Array, turns: EachTurn) -> Array:
    """[N, K] sums of the token array x over each turn's tokens."""
    return by_turn(turns.each.sum(x), turns)


def row_weighted(units: Array, layout: Layout, per_token: bool) -> Array:
    """Units times their sequence's weight, if the layout has weights."""
    if layout.row_weights is None:
        return units
    weights = layout.xp.astype(layout.row_weights, units.dtype)
    if per_token:
        return units * layout.spread(weights)
    return units * (weights if len(units.shape) == 1 else weights[:, None])


def unit_weights(reduction: Any, ratio: Ratio, layout: Layout, denominator: Array) -> Array:
    """Units: the reduction's weights, times those of the sequences; 0 where there is no unit."""
    turns = has_turn_units(ratio)
    units = reduction.turn_weights(layout, denominator) if turns else reduction.weights(layout, ratio.per_token, denominator)
    return row_weighted(units, layout, ratio.per_token)


def own_count(reduction: Reduction, layout: Layout, like: Array | None = None) -> Array:
    """[] a batch's own denominator: what its sequences count for, each times its weight if the layout has weights.

    Such a sum is in the dtype of `like`, or in that of the weights.
    """
    weights = layout.row_weights
    if weights is None:
        return reduction.count(layout)
    counts = getattr(reduction, "counts", None)
    if not callable(counts):
        raise TypeError(
            f"reduction: {reduction} has no counts(layout), the parts of its denominator, which a Weighted layout "
            "needs. Use SequenceMean(), TokenMean() or FixedLength(length), or add it"
        )
    weights = weights if like is None else layout.xp.astype(weights, like.dtype)
    return layout.xp.sum(layout.xp.astype(counts(layout), weights.dtype) * weights)


def turn_lengths(turns: EachTurn) -> Array:
    """[N, K] tokens of each turn, integer."""
    return by_turn(turns.each.lengths(), turns)
