"""Statistics of token log ratios between any two policies."""

from __future__ import annotations

import math

from gspo_core._lib.array import segment_sum
from gspo_core._lib.units import mean_over_tokens
from gspo_core.kl import K3
from gspo_core.layouts.prepared import prepared
from gspo_core.types import Array, Layout, Namespace

from .ledger import Entries
from .sketch import BINS, binned, moment_sums


def log_ratio_entries(name: str, d: Array, layout: Layout, sign: Array | None = None) -> Entries:
    """Of d = log p − log q at tokens sampled from q (a token array, 0 where masked): histogram, moments, extremes, k1 and k3.

    The histogram is of the means over each sequence; with `sign` [N] in {0, 1, 2} there is one for each sign. Moments have
    the weights 1, |y| and |y|²: the last ones are those of sums over a sequence, which the design effect needs.
    """
    xp, layout = layout.xp, prepared(layout, d)
    mean, lengths = mean_over_tokens(d, layout), layout.lengths()
    there, bins = lengths > 0, binned(xp, mean)
    one, tokens, held = xp.astype(there, xp.int32), xp.astype(lengths, xp.int32), xp.astype(lengths, d.dtype)
    rows, index = (1, bins.index) if sign is None else (3, sign * BINS + bins.index)
    inner = layout.select(d - layout.spread(mean))
    counts = {
        f"{name}.bins": segment_sum(xp, one, index, rows * BINS),
        f"{name}.bin_tokens": segment_sum(xp, tokens, bins.index, BINS),
    }
    sums = {
        f"{name}.bin_squares": segment_sum(xp, held * held, bins.index, BINS),
        f"{name}.moments": moment_sums(xp, bins, xp.astype(one, d.dtype)),
        f"{name}.token_moments": moment_sums(xp, bins, held),
        f"{name}.square_moments": moment_sums(xp, bins, held * held),
        f"{name}.within": xp.sum(layout.sum(inner * inner)),
        f"{name}.k1": 0.0 - xp.sum(layout.sum(d)),
        f"{name}.k3": xp.sum(layout.sum(K3()(xp, d, d).value)),
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
