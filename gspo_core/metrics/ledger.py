"""Metrics as four vectors, and what stands where in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple

import numpy as np

from gspo_core._lib.array import count_true, is_of, namespace, shape_of, to_numpy
from gspo_core.types import Array, Namespace

from .sketch import BINS

LENGTH_BINS = 18
"""Lengths of 1, of 2 and 3, of 4 to 7 … and from 131,072 on."""

COUNTS = {
    "batches": 1,
    "batch_units": 1,  # as units, but of batches alone: without what was never run
    "on_policy_batches": 1,
    "sequences": 1,
    "tokens": 1,
    "empty": 1,  # sequences without a token
    "denominators": 1,  # batches that were divided by another count than their own
    "units": 1,  # of the objective's own denominator
    "zero_advantage": 1,
    "clip_active": 1,
    "clip_low": 1,
    "clip_high": 1,
    "clip_active_tokens": 1,
    "clip_low_tokens": 1,
    "clip_high_tokens": 1,
    "continued": 1,  # tokens with an advantage whose log ratio is beyond EXP_CAP
    "not_finite_advantages": 1,  # sequences
    "log_s.not_finite": 1,  # tokens
    "log_s.positive": 1,  # tokens
    "table": LENGTH_BINS * 3 * 2,  # length, sign of the advantage, clipped
    "log_s.bins": 3 * BINS,  # sign of the advantage, bin
    "log_s.bin_tokens": BINS,
    "groups": 1,
    "constant_groups": 1,  # of two responses or more
    "single_groups": 1,  # of one, without an advantage
    "grouped": 1,  # responses
    "sampler.sequences": 1,
    "sampler.tokens": 1,
    "sampler.units": 1,
    "sampler.weighed": 1,  # of these, with a finite weight
    "sampler.truncated": 1,
    "sampler.rejected": 1,
    "sampler.not_finite": 1,
    "sampler.positive": 1,
    "sampler.bins": BINS,
    "sampler.bin_tokens": BINS,
    "entropy.tokens": 1,
    "reference.tokens": 1,
    "reference.capped": 1,
}
SUMS = {
    "loss": 1,  # times its denominator
    "gradient": 1,  # Σ |weight|, likewise
    "trained": 1,  # the loss as it was divided
    "updates": 1,  # Σ own count / denominator
    "weighted_units": 1,  # the units of layouts whose sequences have weights, which are no integers
    "weighted_batch_units": 1,
    "advantage": 1,
    "abs_advantage": 1,
    "length_squares": 1,
    "s": 1,
    "s_squares": 1,
    "log_s.bin_squares": BINS,  # Σ |y|²; a float, since the square of a length may exceed an int32
    "log_s.moments": 2 * BINS,
    "log_s.token_moments": 2 * BINS,
    "log_s.square_moments": 2 * BINS,
    "log_s.within": 1,  # Σ (d − its sequence's mean)²
    "log_s.other_within": 1,  # the same of log-probs under q, the old policy
    "log_s.together": 1,  # Σ of the products of both, each less its sequence's mean
    "log_s.k1": 1,
    "log_s.k3": 1,
    "sampler.raw": 1,
    "sampler.weight": 1,
    "sampler.capped": 1,  # weights, none above e²⁰
    "sampler.capped_squares": 1,
    "sampler.excess": 1,  # Σ E, with E = Σ_t (π_old/π_sampler − 1) of a response
    "sampler.excess_tokens": 1,  # Σ E |y|
    "sampler.excess_squares": 1,  # Σ E²
    "sampler.bin_squares": BINS,
    "sampler.moments": 2 * BINS,
    "sampler.token_moments": 2 * BINS,
    "sampler.square_moments": 2 * BINS,
    "sampler.within": 1,
    "sampler.other_within": 1,
    "sampler.together": 1,
    "sampler.k1": 1,
    "sampler.k3": 1,
    "entropy": 1,
    "reference.k1": 1,
    "reference.k3": 1,
}
MINIMA = {"length": 1, "log_s": 1, "sampler": 1}
MAXIMA = {
    "length": 1,
    "gradient": 1,  # of a response, times the denominator
    "advantage": 1,  # |A|, of a response
    "log_s": 1,
    "log_s.positive": 1,  # the largest log-prob, of any sign
    "sampler": 1,
    "sampler.positive": 1,
    "sampler.raw": 1,
    "sampler.weight": 1,
}


class Metrics(NamedTuple):
    """Statistics of a batch, a step or a run, on the device where they were computed; `summary` gives them names.

    Everything in them merges elementwise. Over micro-batches and steps use `merge`; over ranks one all-reduce per vector,

        dist.all_reduce(m.counts), dist.all_reduce(m.sums), dist.all_reduce(m.minima, MIN), dist.all_reduce(m.maxima, MAX)

    which is `gspo_torch.merge_over`; it also keeps a NaN, which the minimum of a communication library may lose.

    A tuple of arrays, and so a pytree for JAX. A batch without a sequence is the neutral element. Counts are exact up to the
    largest number of the library's default integer (2³¹ − 1 under JAX without x64); one that `merge` drives beyond is refused
    by `summary`.

    >>> import numpy as np
    >>> from gspo_core import group_metrics
    >>> [vector.ndim for vector in group_metrics(np.array([1.0, -1.0]), np.array([3, 3]))]
    [1, 1, 1, 1]
    """

    counts: Array
    """Integers, added."""
    sums: Array
    """Float32, or float64 if the log-probs are; added."""
    minima: Array
    """The smaller one is kept, NaN if one is; inf if there was nothing."""
    maxima: Array
    """The larger one is kept, NaN if one is; −inf if there was nothing."""


def merge(*metrics: Metrics) -> Metrics:
    """The metrics of several batches as if they were one: counts and sums are added, the extremes are kept.

    Associative and commutative: exactly in counts and extremes, within rounding in sums, which are added from the left.
    Runs under jax.jit, and reads no number on the host.

    Args:
        metrics: one or more, of single batches or merged before; of one library, dtype and device.

    Returns: `Metrics`, on the device.

    Raises: TypeError without any metrics, for what is no `Metrics`, and for arrays of two libraries.

    >>> import numpy as np
    >>> from gspo_core import group_metrics, summary
    >>> mixed = group_metrics(np.array([1.0, -1.0]), np.array([3, 3]))
    >>> constant = group_metrics(np.array([0.0, 0.0]), np.array([4, 4]))
    >>> summary(merge(mixed, constant))["constant_groups"]
    0.5
    """
    if not metrics:
        raise TypeError("metrics: expected at least one Metrics, got none; write merge(*parts) with parts that are not empty")
    for part in metrics:
        if not isinstance(part, Metrics):
            raise TypeError(f"metrics: expected Metrics, got {type(part).__name__}; write merge(*parts) for a list of them")
        _check_alike(metrics[0], part)
    return reduce(_two, metrics)


def _check_alike(first: Metrics, part: Metrics) -> None:
    for like, vector in zip(first, part, strict=True):
        namespace(metrics=vector)
        if not is_of(namespace(metrics=like), vector):
            raise TypeError(f"metrics: expected arrays of one library, got {type(like).__name__} and {type(vector).__name__}")
        if shape_of(like) != shape_of(vector):
            raise ValueError(
                f"metrics: expected vectors of one length, got {list(shape_of(like))} and {list(shape_of(vector))}"
            )


def _two(a: Metrics, b: Metrics) -> Metrics:
    xp = namespace(metrics=a.sums)
    # A NaN compares with nothing: it stays, on whichever side it is.
    minima = xp.where((a.minima < b.minima) | xp.isnan(a.minima), a.minima, b.minima)
    maxima = xp.where((a.maxima > b.maxima) | xp.isnan(a.maxima), a.maxima, b.maxima)
    counts = a.counts + b.counts
    # What overflows is negative, and stays so whatever is merged later.
    lost = (a.counts < 0) | (b.counts < 0) | (counts < 0)
    counts = xp.where(lost, xp.iinfo(counts.dtype).min, counts)
    return Metrics(counts, a.sums + b.sums, minima, maxima)


@dataclass(frozen=True)
class Entries:
    """Named contributions to the four vectors; a name that is missing keeps the identity of its merge (0, +∞ or −∞)."""

    counts: dict[str, Array] = field(default_factory=dict)
    sums: dict[str, Array] = field(default_factory=dict)
    minima: dict[str, Array] = field(default_factory=dict)
    maxima: dict[str, Array] = field(default_factory=dict)

    def __or__(self, other: Entries) -> Entries:
        """Both."""
        return Entries(
            self.counts | other.counts, self.sums | other.sums, self.minima | other.minima, self.maxima | other.maxima
        )


def ledger(xp: Namespace, entries: Entries, like: Array) -> Metrics:
    """The four vectors, in the dtype of `like`; arrays to be counted are boolean or integer."""
    whole = count_true(xp, xp.abs(like) >= 0)  # only its dtype and device: the library's default integer
    return Metrics(
        _packed(xp, COUNTS, entries.counts, 0, whole),
        _packed(xp, SUMS, entries.sums, 0.0, like),
        # Adding 0 makes −0 a 0: which of two zeros is kept would depend on the order in which metrics are merged.
        _packed(xp, MINIMA, entries.minima, math.inf, like) + 0.0,
        _packed(xp, MAXIMA, entries.maxima, -math.inf, like) + 0.0,
    )


def _packed(xp: Namespace, widths: Mapping[str, int], entries: Mapping[str, Array], neutral: float, like: Array) -> Array:
    assert set(entries) <= set(widths), f"not in the ledger: {set(entries) - set(widths)}"
    nothing = xp.zeros_like(xp.reshape(xp.sum(like), (1,)), dtype=like.dtype) + neutral
    parts = []
    for name, width in widths.items():
        if name in entries:
            parts.append(xp.astype(xp.reshape(entries[name], (width,)), like.dtype))
        else:
            parts.append(xp.broadcast_to(nothing, (width,)))
    return xp.concat(parts)


def read(vector: Array, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """A vector's entries by name, on the host."""
    numbers: np.ndarray = to_numpy(vector)
    expected = sum(widths.values())
    if shape_of(numbers) != (expected,):
        raise ValueError(f"metrics: expected a vector of {expected} numbers, got shape {list(shape_of(numbers))}")
    if numbers.dtype.kind == "i" and (numbers < 0).any():
        raise ValueError(
            f"metrics: expected counts that fit into {numbers.dtype}, got one that overflowed when they were merged; read a "
            "`summary` more often, or use a library with 64-bit integers (JAX: jax_enable_x64)"
        )
    ends = np.cumsum(list(widths.values()))
    return dict(zip(widths, np.split(numbers, ends[:-1]), strict=True))
