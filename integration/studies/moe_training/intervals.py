"""The statistics of the training study: collapse, intervals, the largest stable learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from integration.options.errors import UserError

Row = dict[str, Any]
"""The result of one run, as run.py returns it."""

WINDOW = 5
"""Rollouts that a reward is averaged over."""
RESAMPLES = 10_000
NORMAL = 1.959964
"""97.5 % quantile of the standard normal distribution."""


class Interval(NamedTuple):
    """An estimate with a 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})".replace("-", "−")


def collapsed(reward: Sequence[float]) -> bool:
    """Whether a run collapsed: its last 5 rewards average less than half of its best 5 in a row, or than 0.9 of rollout 0.

    Rollout 0 is that of the warmed-up model, before any update.
    """
    if len(reward) < WINDOW:
        raise UserError(f"reward: expected a curve of at least {WINDOW} rollouts, got {len(reward)}")
    means = np.convolve(reward, np.full(WINDOW, 1 / WINDOW), "valid")
    return bool(means[-1] < 0.5 * means.max() or means[-1] < 0.9 * reward[0])


def wilson(count: int, total: int) -> Interval:
    """Wilson's 95 % interval of a share. E. B. Wilson, 1927, JASA 22."""
    share, z = count / total, NORMAL * NORMAL / total
    centre = (share + z / 2) / (1 + z)
    half = NORMAL * np.sqrt(share * (1 - share) / total + z / (4 * total)) / (1 + z)
    return Interval(share, max(float(centre - half), 0.0), min(float(centre + half), 1.0))


def bootstrap(values: Sequence[float]) -> Interval:
    """Percentile bootstrap of a mean over seeds: 10,000 resamples, always the same ones.

    With five or six seeds it is too narrow: its coverage is below 95 %. Read it together with the signs of the seeds.
    """
    x = np.asarray(values, dtype=float)
    picks = np.random.default_rng(0).integers(len(x), size=(RESAMPLES, len(x)))
    low, high = np.percentile(x[picks].mean(1), [2.5, 97.5])
    return Interval(float(x.mean()), float(low), float(high))


def largest_stable(collapses: dict[float, Sequence[bool]]) -> float | None:
    """The largest learning rate up to which, itself included, no seed collapsed; None if the smallest had one that did."""
    stable = None
    for lr in sorted(collapses):
        if any(collapses[lr]):
            break
        stable = lr
    return stable


class Grid:
    """The complete seeds of one study: those for which every arm has run at every learning rate."""

    def __init__(self, rows: Sequence[Row], study: str) -> None:
        mine = {(row["arm"], row["lr"], row["seed"]): row for row in rows if row["study"] == study}
        self.study = study
        self.arms = list(dict.fromkeys(arm for arm, _, _ in mine))
        self.lrs: list[float] = sorted({lr for _, lr, _ in mine})
        self.seeds = [
            seed
            for seed in sorted({seed for _, _, seed in mine})
            if all((arm, lr, seed) in mine for arm in self.arms for lr in self.lrs)
        ]
        self.left_out = len(mine) - len(self.seeds) * len(self.arms) * len(self.lrs)
        """Runs of seeds that are not complete."""
        if not self.seeds:
            raise UserError(f"{study}: expected a seed with every arm at every learning rate, got {len(mine)} runs without one")
        self._runs = mine

    def runs(self, arm: str, lr: float) -> list[Row]:
        """One per complete seed, in order."""
        return [self._runs[arm, lr, seed] for seed in self.seeds]

    def held_out(self, arm: str, lr: float) -> np.ndarray:
        """[seeds] reward on held-out prompts after training."""
        return np.array([row["held_out"][1] for row in self.runs(arm, lr)])

    def survived(self, arm: str, lr: float) -> np.ndarray:
        """[seeds] 1 for a run that did not collapse, else 0."""
        return np.array([1.0 - collapsed(row["curves"]["reward"]) for row in self.runs(arm, lr)])

    def best_lr(self, arm: str) -> float:
        """By the mean of `held_out`: every arm picks its own, from the same rates."""
        return max(self.lrs, key=lambda lr: float(self.held_out(arm, lr).mean()))
