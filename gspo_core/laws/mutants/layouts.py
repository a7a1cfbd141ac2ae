"""Mutants: objectives with a ratio of their own that is right in a padded batch, and wrong where its tokens stand otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from gspo_core._lib.array import exp_finite, where_true
from gspo_core.objectives.clipped_surrogates import Clip
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.ratios import Sequence
from gspo_core.types import Array, Gain, Gated, Layout, Namespace

from .mutant import HIGH, LIKE, LOW, Kind, Mutant


@dataclass(frozen=True)
class _Pooled(Sequence):
    """One row is one sequence, also where it holds several."""

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        own = super().log_ratio(d, layout)
        if len(layout.shape) == 2:
            return own
        mean = layout.xp.sum(layout.select(d)) / max(1, int(layout.xp.sum(layout.lengths())))
        return layout.xp.where(layout.lengths() > 0, mean, 0.0 * own)


@dataclass(frozen=True)
class _OfThisRank(Sequence):
    """The mean over the tokens that are at hand."""

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        here: Any = layout
        return super().log_ratio(d, here.local)


@dataclass(frozen=True)
class _NotRestricted(Sequence):
    """The length before tokens were rejected."""

    def log_ratio(self, d: Array, layout: Layout) -> Array:
        here: Any = layout
        return super().log_ratio(d, getattr(here.local, "layout", layout))


@dataclass(frozen=True)
class _FirstToken(Sequence):
    """Looks at the first slot, which a layout need not have."""

    def log_ratio(self, d: Array, layout: Layout) -> Array:
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
    """A gain whose slope is A s (1 + 1/50): no derivative, though it says that it is one."""

    exact = True

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        ratio, slope = exp_finite(xp, log_ratio)
        return Gain(advantage * ratio, 1.02 * advantage * slope)


@dataclass(frozen=True)
class _BatchGate:
    """Closes tokens beyond the largest advantage of the batch: a gate that looks at other responses."""

    def __call__(self, d: Array, advantage: Array, layout: Layout, per_token: bool) -> Gated:
        xp = layout.xp
        largest = xp.max(xp.abs(advantage)) if layout.num_sequences else 0.0
        at_tokens = advantage if per_token else layout.spread(advantage)
        return Gated(d, advantage, where_true(xp, layout.valid, layout.valid & (xp.abs(at_tokens) >= largest)))


def pooled_where_packed() -> Objective:
    """All sequences of a packed row share one ratio."""
    return replace(LIKE, ratio=_Pooled())


def mean_of_this_rank() -> Objective:
    """Context parallelism without the exchange."""
    return replace(LIKE, ratio=_OfThisRank())


def length_before_rejection() -> Objective:
    """Rejected tokens count in |y|."""
    return replace(LIKE, ratio=_NotRestricted())


def first_slot_is_looked_at() -> Objective:
    """Needs a slot to be there."""
    return replace(LIKE, ratio=_FirstToken())


def bound_with_a_tolerance() -> Objective:
    """Live up to 1e-9 beyond the bound."""
    return replace(LIKE, surrogate=_Blurred(LOW, HIGH))


def unknown_gain_with_another_slope() -> Objective:
    """A surrogate of somebody's own whose slope is 2 % too large."""
    return replace(LIKE, surrogate=_Leaning())


def unknown_gate_that_sees_the_batch() -> Objective:
    """A gate of somebody's own that compares responses."""
    return replace(LIKE, gate=_BatchGate())


LAYOUTS = [
    Mutant(pooled_where_packed, "packed is padded", seen="Tunix#1662", kind=Kind.OBJECTIVE),
    Mutant(mean_of_this_rank, "splitting a response over ranks changes nothing", kind=Kind.OBJECTIVE),
    Mutant(length_before_rejection, "a rejected token is a masked token", kind=Kind.OBJECTIVE),
    Mutant(first_slot_is_looked_at, "a layout without a token has loss 0", kind=Kind.OBJECTIVE),
    Mutant(bound_with_a_tolerance, "on a bound a unit is live, one step of rounding beyond it is silent", kind=Kind.OBJECTIVE),
]
UNKNOWN = [
    Mutant(
        unknown_gain_with_another_slope,
        "the gradient is the derivative of the value",
        unknown_gain_with_another_slope(),
        kind=Kind.OBJECTIVE,
    ),
    Mutant(
        unknown_gate_that_sees_the_batch, "the gradient is the paper's", unknown_gate_that_sees_the_batch(), kind=Kind.OBJECTIVE
    ),
]
