"""A histogram that can be added up: counts per bin of equal relative width, and how values lie around the bin's centre.

Eight bins per octave of |x|, for |x| from 2⁻³⁰ (1e-9) to 2⁶ (64), of either sign; what is smaller shares the middle bin,
what is larger the outermost ones. Edges grow by a factor of 2^(1/8), so that the centre of a bin is within 4.5 % of every value
in it, and so is a quantile of the true order statistic.

Moments come from Σ (x − c) and Σ (x − c)² around the centre c of each bin. They are plain sums, which ranks can add up in one
all-reduce, and yet nothing cancels: values around 1e-3 that differ by 1e-6 keep their variance in float32 (to about 1e-3 of
it), where Σ x² would have lost it. Each value may have a weight as well (its tokens).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gspo_core._lib.array import segment_sum
from gspo_core.types import Array, Namespace

PER_OCTAVE = 8
_LOWEST, _HIGHEST = -30, 6
STEPS = (_HIGHEST - _LOWEST) * PER_OCTAVE
BINS = 2 * STEPS + 1
RESOLUTION = 2.0 ** (0.5 / PER_OCTAVE) - 1.0
"""Largest distance of a value inside the range from its bin's centre, relative to the value: 4.4 %."""

CENTRES = np.zeros(BINS)
CENTRES[STEPS + 1 :] = 2.0 ** ((np.arange(STEPS) + 0.5) / PER_OCTAVE + _LOWEST)
CENTRES[:STEPS] = -CENTRES[:STEPS:-1]
_UPWARDS = 2.0 ** (np.arange(STEPS + 1) / PER_OCTAVE + _LOWEST)
EDGES = np.concatenate([-_UPWARDS[::-1], _UPWARDS])
"""[BINS + 1] ascending; bin b holds EDGES[b] to EDGES[b + 1]."""


class Binned(NamedTuple):
    """Where values fall, all [N]."""

    index: Array
    """Bin, ascending with the value; a value that is no finite number has the middle one."""
    deviation: Array
    """x − the bin's centre."""


def binned(xp: Namespace, x: Array) -> Binned:
    """The bins of x [N]."""
    size = xp.abs(x)
    inside = (size >= 2.0**_LOWEST) & (size < math.inf)
    steps = xp.floor((xp.log2(xp.where(inside, size, 1.0)) - _LOWEST) * PER_OCTAVE)
    steps = xp.where(steps < 0, 0.0, xp.where(steps > STEPS - 1, STEPS - 1.0, steps))
    centre = xp.exp(((steps + 0.5) / PER_OCTAVE + _LOWEST) * math.log(2.0))
    centre = xp.where(inside, xp.where(x < 0, 0.0 - centre, centre), 0.0)
    index = xp.where(inside, xp.where(x < 0, STEPS - 1.0 - steps, STEPS + 1.0 + steps), float(STEPS))
    return Binned(xp.astype(index, xp.int32), x - centre)


def moment_sums(xp: Namespace, bins: Binned, weight: Array) -> Array:
    """[2 · BINS] Σ w (x − c) and Σ w (x − c)² of each bin, with weights [N] that are 0 where nothing counts."""
    moved = xp.where(weight > 0, bins.deviation, 0.0) * weight
    squares = xp.where(weight > 0, bins.deviation, 0.0) * moved
    return xp.concat([segment_sum(xp, part, bins.index, BINS) for part in (moved, squares)])


class Moments(NamedTuple):
    """Statistics that the host computes from the sums."""

    weight: float
    mean: float
    squares: float
    """Σ w (x − mean)²."""


def moments(weights: np.ndarray, sums: np.ndarray) -> Moments:
    """Mean and centred squares from weights [BINS] and `moment_sums`, in float64; a mean of nothing is 0."""
    weight, (moved, squares) = weights.astype(np.float64), sums.astype(np.float64).reshape(2, BINS)
    total = float(weight.sum())
    if total == 0:
        return Moments(0.0, 0.0, 0.0)
    inner = np.divide(moved, weight, out=np.zeros(BINS), where=weight > 0)
    mean = float((weight * (CENTRES + inner)).sum()) / total
    within = np.maximum(squares - moved * inner, 0.0)
    return Moments(total, mean, float((within + weight * (CENTRES + inner - mean) ** 2).sum()))


def quantile(counts: np.ndarray, q: float, values: np.ndarray = CENTRES) -> float:
    """The centre of the bin that holds the ⌈q n⌉-th smallest of n ≥ 1 values (the smallest for q = 0)."""
    running = np.cumsum(counts)
    rank = max(1, math.ceil(q * int(running[-1])))
    return float(values[int(np.searchsorted(running, rank))])


def of_size(counts: np.ndarray) -> np.ndarray:
    """[STEPS + 1] counts of |x|, whose bins have the centres CENTRES[STEPS:]."""
    folded: np.ndarray = counts[STEPS:] + np.concatenate([[0], counts[:STEPS][::-1]])
    return folded


def share_above(counts: np.ndarray, bound: float) -> float:
    """Number of values above a bound; a bin that the bound cuts counts in proportion."""
    above = np.clip((EDGES[1:] - bound) / np.diff(EDGES), 0.0, 1.0)
    return float((counts * above).sum())
