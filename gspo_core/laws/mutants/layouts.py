"""Mutants of layouts: right on a padded batch, wrong on packed, restricted, sharded or empty ones; and unknown parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gspo_core._lib.array import exp_finite, where_true
from gspo_core.layouts import Restricted
from gspo_core.objectives.clipped_surrogates import Clip
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.ratios import Sequence
from gspo_core.types import Array, Gain, Gated, Layout, Namespace

from .mutant import HIGH, LIKE, LOW, A, Mutant, MutantKind, not_so


@dataclass(frozen=True)
class _Pooled(Sequence):
    """Treats a row as one sequence, also where it holds several."""

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """The mean over all sequences of a packed row."""
        own = super().log_ratio(d, layout)
        if len(layout.shape) == 2:
            return own
        mean = layout.xp.sum(layout.select(d)) / max(1, int(layout.xp.sum(layout.lengths())))
        return layout.xp.where(layout.lengths() > 0, mean, 0.0 * own)


@dataclass(frozen=True)
class _OfThisRank(Sequence):
    """The mean over the tokens of this rank."""

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """The mean over the local part of each sequence."""
        here: Any = layout
        return super().log_ratio(d, here.local)


@dataclass(frozen=True)
class _NotRestricted(Sequence):
    """Uses the length before tokens were rejected."""

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """The mean over all tokens, rejected ones included."""
        here: Any = layout
        whole = here.layout.layout if isinstance(here.layout, Restricted) else layout
        return super().log_ratio(d, whole)


@dataclass(frozen=True)
class _FirstToken(Sequence):
    """Reads the first slot, which a layout may lack."""

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        """The right mean, after reading a slot that may not exist."""
        first = d[..., :1] if layout.shape[-1] else d[..., 0]
        return super().log_ratio(d, layout) + 0.0 * layout.xp.sum(first)


@dataclass(frozen=True)
class _Blurred(Clip):
    """A bound with a tolerance of 1e-9."""

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        bound = math.log1p(self.high)
        near = (log_ratio > bound) & (log_ratio < bound + 1e-9)
        return super().__call__(xp, xp.where(near, bound, log_ratio), advantage)


@dataclass(frozen=True)
class _Leaning:
    """A gain whose slope is 2 % larger than its derivative, though it is declared exact."""

    exact = True

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        ratio, slope = exp_finite(xp, log_ratio)
        return Gain(advantage * ratio, 1.02 * advantage * slope)


@dataclass(frozen=True)
class _BatchGate:
    """Closes all tokens but those with the largest |advantage| of the batch: depends on other responses."""

    def __call__(self, d: Array, advantage: Array, layout: Layout, per_token: bool) -> Gated:
        xp = layout.xp
        largest = xp.max(xp.abs(advantage)) if layout.num_sequences else 0.0
        at_tokens = advantage if per_token else layout.spread(advantage)
        return Gated(d, advantage, where_true(xp, layout.valid, layout.valid & (xp.abs(at_tokens) >= largest)))


def pooled_where_packed() -> Objective:
    """All sequences of a packed row share one ratio."""
    return replace(LIKE, ratio=_Pooled())


def mean_of_this_rank() -> Objective:
    """Context parallelism without the sum over ranks."""
    return replace(LIKE, ratio=_OfThisRank())


def length_before_rejection() -> Objective:
    """Rejected tokens count in |y|."""
    return replace(LIKE, ratio=_NotRestricted())


def first_slot_is_looked_at() -> Objective:
    """Fails on a layout without slots."""
    return replace(LIKE, ratio=_FirstToken())


def bound_with_a_tolerance() -> Objective:
    """Has a gradient up to 1e-9 beyond the bound."""
    return replace(LIKE, surrogate=_Blurred(LOW, HIGH))


def unknown_gain_with_another_slope() -> Objective:
    """A surrogate that the kit does not know, whose slope is 2 % too large."""
    return replace(LIKE, surrogate=_Leaning())


def unknown_gate_that_sees_the_batch() -> Objective:
    """A gate that the kit does not know, which compares responses."""
    return replace(LIKE, gate=_BatchGate())


def one_row_pooled(logp: A, old: A, a: A, segment_ids: A, num_sequences: int) -> Any:
    """Treats a packed row as one sequence: every segment gets the ratio of all tokens."""
    mask, known = segment_ids >= 0, np.unique(segment_ids[segment_ids >= 0])
    d = np.where(mask, logp, 0.0) - np.where(mask, old, 0.0)
    s = np.exp(np.minimum(d.sum() / max(1, mask.sum()), 50.0))
    gains = np.minimum(s * a[known], np.clip(s, 1 - LOW, 1 + HIGH) * a[known])
    return -gains.sum() / max(1, len(known))


def neighbour_leaks(logp: A, old: A, a: A, segment_ids: A, num_sequences: int) -> Any:
    """Segment borders off by one: each token has the segment id of the next slot."""
    d = np.where(segment_ids >= 0, logp, 0.0) - np.where(segment_ids >= 0, old, 0.0)
    shifted = np.append(segment_ids[1:], segment_ids[-1:])
    total = np.array([d[(shifted == i) & (segment_ids >= 0)].sum() for i in range(num_sequences)])
    length = np.array([(segment_ids == i).sum() for i in range(num_sequences)])
    s = np.exp(np.minimum(total / np.maximum(1, length), 50.0))
    gains = np.where(length > 0, np.minimum(s * a, np.clip(s, 1 - LOW, 1 + HIGH) * a), 0.0)
    return -gains.sum() / max(1, (length > 0).sum())


LAYOUT = "packed and padded layouts give the same loss"
RANKS = "splitting a response over ranks does not change the loss"
REJECTED = "a rejected token counts as a masked token"
ONE_STEP = "a unit has a gradient on a bound, and none one step of rounding beyond it"
INDEPENDENT = "a response does not change the gradients of the others"
PACKED = [
    Mutant(
        one_row_pooled,
        INDEPENDENT,
        seen="Tunix#1662",
        kind=MutantKind.PACKED,
        says="all responses of the batch share one ratio",
    ),
    Mutant(neighbour_leaks, INDEPENDENT, kind=MutantKind.PACKED, says="the borders of responses are off by one slot"),
]
LAYOUTS = [
    Mutant(pooled_where_packed, LAYOUT, seen="Tunix#1662", kind=MutantKind.OBJECTIVE, says=not_so(LAYOUT)),
    Mutant(mean_of_this_rank, RANKS, kind=MutantKind.OBJECTIVE, says=not_so(RANKS)),
    Mutant(length_before_rejection, REJECTED, kind=MutantKind.OBJECTIVE, says=not_so(REJECTED)),
    Mutant(
        first_slot_is_looked_at,
        "a layout without a token has loss 0",
        kind=MutantKind.OBJECTIVE,
        says="the loss raises IndexError",
    ),
    Mutant(bound_with_a_tolerance, ONE_STEP, kind=MutantKind.OBJECTIVE, says=not_so(ONE_STEP)),
]
UNKNOWN = [
    Mutant(
        unknown_gain_with_another_slope,
        "the gradient is the derivative of the value",
        unknown_gain_with_another_slope(),
        kind=MutantKind.OBJECTIVE,
        says="the gradient is 1.02 times the derivative of the value",
    ),
    Mutant(
        unknown_gate_that_sees_the_batch,
        "the gradient is the paper's",
        unknown_gate_that_sees_the_batch(),
        kind=MutantKind.OBJECTIVE,
        says="each response alone has the right loss",
    ),
]
