"""Normalisers: how a reward's distance from its group becomes an advantage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gspo_core._lib.array import count_true
from gspo_core._lib.checks import as_whole, hold_numbers
from gspo_core.types import Array, Namespace


class GroupView(NamedTuple):
    """Statistics of each response's group, all [N]: one value per response. Only valid members are counted."""

    reward: Array
    """r_i; 0 for an invalid member."""
    valid: Array
    """Boolean: the reward is to be used."""
    mean: Array
    """Mean reward of the group's valid members; 0 if there is none."""
    deviation: Array
    """r_i − mean; exactly 0 if all rewards of the group are equal, and for an invalid member."""
    sum_of_squares: Array
    """Σ_j deviation_j² over the group."""
    size: Array
    """G, the number of valid members."""
    label: Array
    """Integer in [0, N), equal for the members of one group: the segment to sum over."""


class Normaliser(Protocol):
    """How a deviation from the group's mean becomes an advantage: a function of the group's statistics.

    >>> import numpy as np
    >>> from gspo_core import group_advantages
    >>> def sign(xp, group):
    ...     return xp.sign(group.deviation)
    >>> group_advantages([3.0, 1.0, 2.5], [0, 0, 0], sign).tolist()
    [1.0, -1.0, 1.0]
    """

    def __call__(self, xp: Namespace, group: GroupView) -> Array:
        """[N] advantages."""


def _check(normaliser: ZScore | BatchStd) -> None:
    object.__setattr__(normaliser, "ddof", as_whole("ddof", normaliser.ddof, 0, 1))
    hold_numbers(normaliser, "eps")
    if not 0.0 <= normaliser.eps < math.inf:
        raise ValueError(f"eps: expected a finite number of at least 0, got {normaliser.eps}")


@dataclass(frozen=True)
class ZScore:
    """A_i = (r_i − mean) / (std + eps), std² = Σ (r − mean)² / (G − ddof); 0 for a constant group.

    The paper says only "std"; numpy's population value (ddof 0, eps 0) is the default here. TRL and verl use ddof 1 and
    eps 1e-4 or 1e-6. `ddof` other than 0 or 1 and a negative or infinite `eps` raise ValueError. Source: GSPO, arXiv
    2507.18071, eq. 6.

    >>> from gspo_core import group_advantages
    >>> group_advantages([3.0, 1.0, 5.0, 5.0], [0, 0, 1, 1], ZScore()).tolist()
    [1.0, -1.0, 0.0, 0.0]
    """

    ddof: int = 0
    """0: population, 1: sample standard deviation."""
    eps: float = 0.0
    """Added to the standard deviation; the unit of the reward."""

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, xp: Namespace, group: GroupView) -> Array:
        """[N] z-scores."""
        constant = group.sum_of_squares == 0  # asked this way, a NaN reward shows as NaN instead of passing for "no signal"
        freedom = xp.where(group.size > self.ddof, group.size - self.ddof, 1.0)
        std = xp.sqrt(xp.where(constant, 1.0, group.sum_of_squares) / freedom)
        return xp.where(constant, 0.0, group.deviation / (std + self.eps))


@dataclass(frozen=True)
class BatchStd:
    """A_i = (r_i − mean of the group) / (std + eps), where std is that of all rewards of the call, over all groups.

    An easy prompt, where nearly all responses are right, is not blown up. All of the batch must be in one call: in parts,
    every part has its own scale. 0 for a constant group, and everywhere if all rewards are equal. A NaN reward shows in
    every group. `ddof` other than 0 or 1 and a negative or infinite `eps` raise ValueError. Source: Lite PPO, arXiv
    2508.08221 (mean of the group, std of the batch).

    >>> from gspo_core import group_advantages
    >>> group_advantages([3.0, 1.0, 2.0, 2.0, 4.0, 0.0], [5, 5, 7, 7, 9, 9], BatchStd(ddof=1)).round(3).tolist()
    [0.707, -0.707, 0.0, 0.0, 1.414, -1.414]
    """

    ddof: int = 0
    """0: population, 1: sample standard deviation."""
    eps: float = 0.0
    """Added to the standard deviation; the unit of the reward."""

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, xp: Namespace, group: GroupView) -> Array:
        """[N] deviations from the group's mean, in units of the batch's standard deviation."""
        return self.scaled(xp, group.deviation, group.reward, group.valid)

    def scaled(self, xp: Namespace, deviation: Array, values: Array, valid: Array) -> Array:
        """[N] deviation / (std of the valid values + eps); 0 if all values are equal."""
        count = xp.astype(count_true(xp, valid), values.dtype)
        number = xp.where(count > 0, count, 1.0)
        spread = values
        for _ in range(2):  # the second mean takes away the first one's rounding
            spread = xp.where(valid, spread - xp.sum(xp.where(valid, spread, 0.0)) / number, 0.0)
        squares = xp.sum(spread * spread)
        constant = squares == 0
        std = xp.sqrt(xp.where(constant, 1.0, squares) / xp.where(count > self.ddof, count - self.ddof, 1.0))
        return xp.where(constant, 0.0, deviation / (std + self.eps))


@dataclass(frozen=True)
class Centred:
    """A_i = r_i − mean, in the unit of the reward. Source: Dr.GRPO, arXiv 2503.20783.

    >>> from gspo_core import group_advantages
    >>> group_advantages([3.0, 1.0, 2.0], [0, 0, 0], Centred()).tolist()
    [1.0, -1.0, 0.0]
    """

    def __call__(self, xp: Namespace, group: GroupView) -> Array:
        """[N] deviations."""
        return group.deviation


@dataclass(frozen=True)
class LeaveOneOut:
    """A_i = r_i − mean of the others = G/(G − 1) · (r_i − mean); 0 for a singleton. Source: RLOO, arXiv 2402.14740.

    >>> from gspo_core import group_advantages
    >>> group_advantages([3.0, 1.0, 2.0], [0, 0, 0], LeaveOneOut()).tolist()
    [1.5, -1.5, 0.0]
    """

    def __call__(self, xp: Namespace, group: GroupView) -> Array:
        """[N] deviations from the mean of the others."""
        others = xp.where(group.size > 1, group.size - 1.0, 1.0)
        return group.deviation * (group.size / others)


@dataclass(frozen=True)
class MaxRL:
    """A_i = (r_i − mean) / mean; 0 for a constant group, and where the mean is not positive.

    For rewards of 0 and 1 the mean is the success rate p̂: a success weighs (1 − p̂)/p̂, a failure −1. On average it ascends
    log p = −Σ_k (1 − p)^k / k, exactly up to k = G − 1, where `Centred()` ascends p, k = 1. Rewards are meant to be at
    least 0: a mean of 0 or less has no likelihood, and dividing by it would turn the gradient around.
    Source: Maximum Likelihood Reinforcement Learning, arXiv 2602.02710.

    >>> from gspo_core import group_advantages
    >>> group_advantages([1.0, 0.0, 0.0, 0.0], [5, 5, 5, 5], MaxRL()).tolist()
    [3.0, -1.0, -1.0, -1.0]
    """

    def __call__(self, xp: Namespace, group: GroupView) -> Array:
        """[N] deviations in units of the group's mean."""
        without = (group.mean <= 0) | (group.sum_of_squares == 0)  # both are False for NaN, which shows
        return xp.where(without, 0.0, group.deviation / xp.where(without, 1.0, group.mean))
