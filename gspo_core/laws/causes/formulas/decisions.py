"""Suspects of the clip's decision, taken token by token where a response has one ratio, and of its range."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.batch import Batch, Bools, Floats
from gspo_core.laws.kit.setting import Setting
from gspo_core.objectives.clipped_surrogates import Clip, Unclipped
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.ratios import Sequence, SequenceToken
from gspo_core.types import Array, Gated, Layout

from .clips import Bounded

ONE_DECISION = "clip the ratio of the response, once for all its tokens"
LENGTHS: tuple[tuple[str, Callable[[float], float]], ...] = (
    ("divided by the square root of the length", lambda n: n**-0.5),
    ("multiplied by the square root of the length", lambda n: n**0.5),
    ("divided by the length", lambda n: 1.0 / n),
    ("multiplied by the length", lambda n: n),
    ("divided by 1 + the logarithm of the length", lambda n: 1.0 / (1.0 + math.log(n))),
)
"""How a clip range may depend on the length: (words, factor of ε)."""


@dataclass(frozen=True)
class ByToken:
    """Tokens whose own ratio leaves the clip range on the advantage's side have no loss."""

    low: float
    high: float

    def __call__(self, d: Array, advantage: Array, layout: Layout, per_token: bool) -> Gated:
        """One response, as the kit evaluates gates that it does not know."""
        shut = _shut(d, advantage, self.low, self.high)
        return Gated(d, np.where(shut, 0.0, advantage), layout.valid & ~shut)


def _shut(d: Floats, advantage: Floats, low: float, high: float) -> Bools:
    """Whether a token, taken alone, is clipped."""
    return np.asarray(((advantage > 0) & (d > math.log1p(high))) | ((advantage < 0) & (d < math.log1p(-low))))


def _of_tokens(own: Clip) -> list[Suspect]:
    """A decision per token: in the gradient alone, or in the value, too."""

    def live(batch: Batch) -> Floats:
        return 1.0 - _shut(batch.d, batch.token_advantage, own.low, own.high)

    def gated(objective: Objective) -> Objective:
        return replace(objective, ratio=SequenceToken(), surrogate=Unclipped(), gate=ByToken(own.low, own.high))

    words = "the gradient is clipped token by token: tokens whose own ratio is outside have none"
    dropped = "the clip decides token by token: tokens whose own ratio is outside have no loss"
    return [Suspect(words, ONE_DECISION, chain=live), Suspect(dropped, ONE_DECISION, gated)]


def _of_lengths(own: Clip) -> list[Suspect]:
    """A clip range that depends on the length of the response."""
    found = []
    for words, factor in LENGTHS:

        def by_row(objective: Objective, batch: Batch, i: int, factor: Callable[[float], float] = factor) -> Objective:
            by = factor(float(max(1, batch.lengths[i])))
            return replace(objective, surrogate=Bounded(0.0, 1 + by * own.high, 1 - by * own.low, math.inf))

        fix = f"use {own.low:.6g} and {own.high:.6g} for every length"
        found.append(Suspect(f"the clip range depends on the length: ε is {words}", fix, by_row=by_row))
    return found


def _around_the_mean(own: Clip) -> list[Suspect]:
    """A clip range around the mean ratio of the batch, which is held constant or not."""

    def mean(batch: Batch) -> float:
        filled = batch.mask.any(axis=1)
        ratio = np.exp(batch.d.sum(axis=1)[filled] / batch.lengths[filled])
        return float(ratio.mean()) if ratio.size else 1.0

    def shifted(objective: Objective, batch: Batch, i: int) -> Objective:
        by = mean(batch) - 1.0
        return replace(objective, surrogate=Bounded(0.0, 1 + by + own.high, 1 + by - own.low, math.inf))

    def scaled(objective: Objective, batch: Batch, i: int) -> Objective:
        by = mean(batch)
        return replace(objective, surrogate=Bounded(0.0, by * (1 + own.high), by * (1 - own.low), math.inf))

    words, fix = "the clip range lies around the mean ratio of the batch, not around 1", "clip each ratio to 1 − ε to 1 + ε"
    return [Suspect(words, fix, by_row=by_row, by_differences=live) for by_row in (shifted, scaled) for live in (False, True)]


def decisions(setting: Setting) -> list[Suspect]:
    """All suspects, for an objective whose responses have one ratio and a clip range."""
    own, like = setting.like.surrogate, setting.like
    if not (isinstance(own, Clip) and type(like.ratio) in (Sequence, SequenceToken) and like.gate is None):
        return []
    return [*_of_tokens(own), *_of_lengths(own), *_around_the_mean(own)]
