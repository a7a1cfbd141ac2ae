"""Mutants of group advantages."""

from __future__ import annotations

from typing import Any

import numpy as np

from gspo_core.advantages.normalisers import LeaveOneOut, ZScore

from .mutant import A, Mutant, MutantKind

STATED = "the advantages are those of the stated normaliser"
GROUPS = "a group's advantages do not depend on other groups"
CONSTANT = "a constant group has advantage 0"


def _by_group(reward: A, group: A, statistic: Any) -> A:
    return np.array([statistic(reward[group == g]) for g in group])


def _guarded(deviation: A, std: A, eps: float = 0.0) -> A:
    return np.where(std > 1e-9, deviation / np.where(std > 1e-9, std + eps, 1.0), 0.0)


def std_over_the_batch(reward: A, group: A) -> A:
    """Mean of the group, standard deviation of the batch."""
    return _guarded(reward - _by_group(reward, group, np.mean), np.full(len(reward), np.std(reward)))


def mean_over_the_batch(reward: A, group: A) -> A:
    """Mean of the batch, standard deviation of the group."""
    return _guarded(reward - np.mean(reward), _by_group(reward, group, np.std))


def rounding_blown_up(reward: A, group: A) -> A:
    """(r − mean)/std wherever std is not exactly 0."""
    std = _by_group(reward, group, np.std)
    return np.where(std > 0, (reward - _by_group(reward, group, np.mean)) / np.where(std > 0, std, 1.0), 0.0)


def constant_is_nan(reward: A, group: A) -> A:
    """0/0."""
    return (reward - _by_group(reward, group, np.mean)) / _by_group(reward, group, np.std)


def ddof_one(reward: A, group: A) -> A:
    """The sample standard deviation where the population's was stated."""
    std = _by_group(reward, group, lambda r: np.std(r, ddof=1) if len(r) > 1 else 0.0)
    return _guarded(reward - _by_group(reward, group, np.mean), std)


def eps_under_the_root(reward: A, group: A) -> A:
    """√(var + eps) instead of std + eps."""
    return (reward - _by_group(reward, group, np.mean)) / np.sqrt(_by_group(reward, group, np.var) + 1e-4)


def not_divided_by_others(reward: A, group: A) -> A:
    """r − mean where the mean of the other responses was stated."""
    return reward - _by_group(reward, group, np.mean)


def single_keeps_its_reward(reward: A, group: A) -> A:
    """A group of one response gets mean 0 and standard deviation 1."""
    alone = _by_group(reward, group, len) == 1
    return np.where(alone, reward, _guarded(reward - _by_group(reward, group, np.mean), _by_group(reward, group, np.std)))


def groups_by_position(reward: A, group: A) -> A:
    """Assumes groups of equal size that follow each other, and ignores the ids."""
    groups = len(set(group.tolist()))
    if len(reward) % groups:
        return _guarded(reward - _by_group(reward, group, np.mean), _by_group(reward, group, np.std))
    rows = reward.reshape(groups, -1)
    return _guarded(rows - rows.mean(axis=1, keepdims=True), rows.std(axis=1, keepdims=True)).reshape(-1)


ADVANTAGE = MutantKind.ADVANTAGE
GROUP_ADVANTAGES = [
    Mutant(
        std_over_the_batch,
        GROUPS,
        ZScore(),
        "grpo-flat#2",
        kind=ADVANTAGE,
        says="divided by the standard deviation of the batch",
    ),
    Mutant(mean_over_the_batch, GROUPS, ZScore(), kind=ADVANTAGE, says="the mean of the batch is subtracted"),
    Mutant(
        rounding_blown_up,
        CONSTANT,
        ZScore(),
        "NeMo-RL#4158",
        kind=ADVANTAGE,
        says="a rounding error of the mean is divided by a standard deviation of nearly 0",
    ),
    Mutant(constant_is_nan, CONSTANT, ZScore(), kind=ADVANTAGE, says="a group of equal rewards has the advantage NaN"),
    Mutant(ddof_one, STATED, ZScore(), kind=ADVANTAGE, says="the standard deviation is that with G − 1, ddof = 1, not G"),
    Mutant(eps_under_the_root, STATED, ZScore(eps=1e-4), kind=ADVANTAGE, says="the epsilon is under the root"),
    Mutant(not_divided_by_others, STATED, LeaveOneOut(), kind=ADVANTAGE, says="the mean of the whole group is subtracted"),
    Mutant(
        single_keeps_its_reward,
        "adding a constant to all rewards does not change the advantages",
        ZScore(),
        "verl",
        kind=ADVANTAGE,
        says="a single response keeps its reward",
    ),
    Mutant(
        groups_by_position,
        "the order of the responses does not change the advantages",
        ZScore(),
        kind=ADVANTAGE,
        says="groups are formed by position",
    ),
]
