"""Helpers of ratios, reductions and gates: means over tokens, sums over turns."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

from gspo_core.types import Array, EachTurn, Layout, Namespace, Ratio

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


def turn_lengths(turns: EachTurn) -> Array:
    """[N, K] tokens of each turn, integer."""
    return by_turn(turns.each.lengths(), turns)
