"""The hypotheses of docs/studies/moe-training.md as values, and the rule by which each is decided."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from integration.studies.moe_training.intervals import Grid, Interval, bootstrap


class Measure(Enum):
    """The measure by which two arms are compared: per seed, a mean over the learning rates."""

    SURVIVAL = "share of runs without collapse"
    REWARD = "held-out reward"


@dataclass(frozen=True)
class Hypothesis:
    """`arm` against `other`, paired over seeds: is it better, or, with a margin, the same?"""

    name: str
    claim: str
    study: str
    arm: str
    other: str
    measure: Measure
    margin: float | None = None
    """Two arms are the same if the whole interval of the difference lies within ± margin."""


HYPOTHESES = (
    Hypothesis(
        "H1", "With the same wide range GSPO is more stable than GRPO", "main", "gspo-wide", "grpo-wide", Measure.SURVIVAL
    ),
    Hypothesis(
        "H2",
        "At a matched clip fraction GSPO is more stable than GRPO",
        "main",
        "gspo-matched",
        "grpo-matched",
        Measure.SURVIVAL,
    ),
    Hypothesis(
        "H3", "At a matched clip fraction GSPO earns more than GRPO", "main", "gspo-matched", "grpo-matched", Measure.REWARD
    ),
    Hypothesis("H4", "A tighter range alone makes GRPO more stable", "main", "grpo-matched", "grpo-wide", Measure.SURVIVAL),
    Hypothesis(
        "H5", "GSPO's gate is what matters, its weight s is not", "main", "gate-only", "gspo-matched", Measure.REWARD, 0.05
    ),
    Hypothesis("H6", "Here R2 does not change GRPO's stability", "main", "grpo-wide-r2", "grpo-wide", Measure.SURVIVAL, 0.15),
    Hypothesis("H7", "GRPO breaks without routers, too", "main", "dense-grpo-wide", "grpo-wide", Measure.SURVIVAL, 0.15),
    Hypothesis(
        "H8", "GSPO-token with one advantage per response is GSPO", "main", "gspo-token", "gspo-matched", Measure.REWARD, 0.05
    ),
    Hypothesis("H9", "Where routing noise dominates, R2 rescues GRPO", "rescue", "grpo-wide-r2", "grpo-wide", Measure.REWARD),
    Hypothesis("H10", "Where routing noise dominates, R3 rescues GRPO", "rescue", "grpo-wide-r3", "grpo-wide", Measure.REWARD),
    Hypothesis("H11", "There GSPO needs no replay to beat GRPO", "rescue", "gspo-matched", "grpo-wide", Measure.REWARD),
)


@dataclass(frozen=True)
class Verdict:
    """The result for one hypothesis."""

    hypothesis: Hypothesis
    difference: Interval
    """arm − other."""
    signs: tuple[int, int]
    """Seeds in which the arm was better, and in which it was worse."""
    word: str


def decide(hypothesis: Hypothesis, grid: Grid) -> Verdict:
    """Better: confirmed if the interval lies above 0, reversed if below. The same: confirmed if it lies within ± margin."""
    of = grid.survived if hypothesis.measure is Measure.SURVIVAL else grid.held_out
    both = (np.mean([of(arm, lr) for lr in grid.lrs], axis=0) for arm in (hypothesis.arm, hypothesis.other))
    per_seed = next(both) - next(both)
    difference = bootstrap(per_seed.tolist())
    signs = int((per_seed > 0).sum()), int((per_seed < 0).sum())
    return Verdict(hypothesis, difference, signs, _word(difference, hypothesis.margin))


def _word(difference: Interval, margin: float | None) -> str:
    if margin is not None:
        return "confirmed" if -margin < difference.low and difference.high < margin else "not confirmed"
    if difference.low > 0:
        return "confirmed"
    return "not confirmed, and reversed" if difference.high < 0 else "not confirmed"
