"""Statistics of token log ratios between any two policies."""

from __future__ import annotations

import math

from gspo_core._lib.array import segment_sum
from gspo_core.kl import K3
from gspo_core.layouts.prepared import prepared
from gspo_core.types import Array, Layout, Namespace

from .ledger import Entries
from .log_probs import Compared
from .sketch import BINS, binned, moment_sums


def log_ratio_entries(name: str, pair: Compared, layout: Layout, sign: Array | None = None) -> Entries:
    """Of d = log p − log q at tokens sampled from q: histogram, moments, extremes, k1 and k3, over whole sequences.

    The histogram is of the means over each sequence; with `sign` [N] in {0, 1, 2} there is one for each sign. Moments have
    the weights 1, |y| and |y|²: the last ones are those of sums over a sequence, which the design effect needs.
    """
    xp, d, mean, there = layout.xp, pair.d, pair.mean, pair.whole
    layout = prepared(layout, d)
    lengths, bins = xp.where(there, layout.lengths(), 0), binned(xp, mean)

    def total(x: Array) -> Array:
        return xp.sum(xp.where(there, layout.sum_selected(x), 0.0))

    one, tokens, held = xp.astype(there, xp.int32), xp.astype(lengths, xp.int32), xp.astype(lengths, d.dtype)
    rows, index = (1, bins.index) if sign is None else (3, sign * BINS + bins.index)
    inner = d - layout.spread(mean)
    middle = layout.sum_selected(pair.other) / layout.safe_lengths(d)
    counts = {
        f"{name}.bins": segment_sum(xp, one, index, rows * BINS),
        f"{name}.bin_tokens": segment_sum(xp, tokens, bins.index, BINS),
    }
    sums = {
        f"{name}.bin_squares": segment_sum(xp, held * held, bins.index, BINS),
        f"{name}.moments": moment_sums(xp, bins, xp.astype(one, d.dtype)),
        f"{name}.token_moments": moment_sums(xp, bins, held),
        f"{name}.square_moments": moment_sums(xp, bins, held * held),
        f"{name}.within": total(inner * inner),
        f"{name}.other_within": total(pair.other * pair.other) - xp.sum(held * middle * middle),
        f"{name}.together": total(d * pair.other) - xp.sum(held * mean * middle),
        f"{name}.k1": 0.0 - total(d),
        f"{name}.k3": total(K3()(xp, d, d).value),
    }
    return Entries(counts, sums, {name: lowest(xp, mean, there)}, {name: highest(xp, mean, there)})


def lowest(xp: Namespace, x: Array, there: Array) -> Array:
    """[] the smallest x where there is one, else inf."""
    return xp.min(_with(xp, x, there, math.inf))


def highest(xp: Namespace, x: Array, there: Array) -> Array:
    """[] the largest x where there is one, else −inf."""
    return xp.max(_with(xp, x, there, -math.inf))


def _with(xp: Namespace, x: Array, there: Array, neutral: float) -> Array:
    """x in one axis, `neutral` where nothing counts and once more, so that there is something to compare."""
    flat = xp.reshape(xp.where(there, x, neutral), (-1,))
    return xp.concat([flat, xp.zeros_like(xp.sum(flat, keepdims=True)) + neutral])
