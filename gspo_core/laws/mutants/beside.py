"""Mutants beside the loss: group advantages, clip fractions, packed inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from gspo_core.advantages.normalisers import LeaveOneOut, ZScore

from .mutant import HIGH, LIKE, LIKE_GRPO, LOW, A, Kind, Mutant, log_s, ratios

STATED = "advantages are those of the stated normaliser"
GROUPS = "a group does not see the others"
CONSTANT = "a constant group has advantage 0"
COUNTS = "the clip fraction counts the units that have an advantage and no gradient"
MERGES = "fractions of parts, weighted by what they count, are the whole's"


def _by_group(reward: A, group: A, statistic: Any) -> A:
    return np.array([statistic(reward[group == g]) for g in group])


def _guarded(deviation: A, std: A, eps: float = 0.0) -> A:
    return np.where(std > 1e-9, deviation / np.where(std > 1e-9, std + eps, 1.0), 0.0)


def std_over_the_batch(reward: A, group: A) -> A:
    """The group's mean, the batch's standard deviation."""
    return _guarded(reward - _by_group(reward, group, np.mean), np.full(len(reward), np.std(reward)))


def mean_over_the_batch(reward: A, group: A) -> A:
    """The other way round."""
    return _guarded(reward - np.mean(reward), _by_group(reward, group, np.std))


def rounding_blown_up(reward: A, group: A) -> A:
    """(r − mean)/std wherever std is not exactly 0."""
    std = _by_group(reward, group, np.std)
    return np.where(std > 0, (reward - _by_group(reward, group, np.mean)) / np.where(std > 0, std, 1.0), 0.0)


def constant_is_nan(reward: A, group: A) -> A:
    """0/0."""
    return (reward - _by_group(reward, group, np.mean)) / _by_group(reward, group, np.std)


def ddof_one(reward: A, group: A) -> A:
    """The sample standard deviation, where the population's was stated."""
    std = _by_group(reward, group, lambda r: np.std(r, ddof=1) if len(r) > 1 else 0.0)
    return _guarded(reward - _by_group(reward, group, np.mean), std)


def eps_under_the_root(reward: A, group: A) -> A:
    """√(var + eps) for std + eps."""
    return (reward - _by_group(reward, group, np.mean)) / np.sqrt(_by_group(reward, group, np.var) + 1e-4)


def not_divided_by_others(reward: A, group: A) -> A:
    """r − mean, where the mean of the others was stated."""
    return reward - _by_group(reward, group, np.mean)


def single_keeps_its_reward(reward: A, group: A) -> A:
    """A group of one: mean 0, standard deviation 1."""
    alone = _by_group(reward, group, len) == 1
    return np.where(alone, reward, _guarded(reward - _by_group(reward, group, np.mean), _by_group(reward, group, np.std)))


def groups_by_position(reward: A, group: A) -> A:
    """Groups of equal size that follow each other are taken for granted."""
    groups = len(set(group.tolist()))
    if len(reward) % groups:
        return _guarded(reward - _by_group(reward, group, np.mean), _by_group(reward, group, np.std))
    rows = reward.reshape(groups, -1)
    return _guarded(rows - rows.mean(axis=1, keepdims=True), rows.std(axis=1, keepdims=True)).reshape(-1)


def _shut(x: A, a: A) -> A:
    return ((a > 0) & (x > np.log1p(HIGH))) | ((a < 0) & (x < np.log1p(-LOW)))


def pairs_counted(logp: A, old: A, a: A, mask: A) -> Any:
    """(N, 1) with (N,): every ratio with every advantage."""
    full = mask.any(axis=1)
    return (_shut(log_s(logp, old, mask)[:, None], a) & full[:, None]).mean(axis=1).sum() / full.sum()


def either_side_counted(logp: A, old: A, a: A, mask: A) -> Any:
    """|s − 1| > ε, whatever the sign of A."""
    s, full = np.exp(log_s(logp, old, mask)), mask.any(axis=1)
    return (((s > 1 + HIGH) | (s < 1 - LOW)) & full).sum() / full.sum()


def empty_rows_dilute(logp: A, old: A, a: A, mask: A) -> Any:
    """A mean over all rows."""
    return (_shut(log_s(logp, old, mask), a) & mask.any(axis=1)).mean()


def padding_counted(logp: A, old: A, a: A, mask: A) -> Any:
    """Clipped slots, padding included, by valid ones."""
    return _shut(logp - old, a[:, None]).sum() / mask.sum()


def mean_of_means(logp: A, old: A, a: A, mask: A) -> Any:
    """Each response's share of clipped tokens, averaged over responses."""
    full = mask.any(axis=1)
    share = (_shut(ratios(logp, old, mask), a[:, None]) & mask).sum(axis=1) / np.maximum(1, mask.sum(axis=1))
    return share[full].mean()


def one_row_pooled(logp: A, old: A, a: A, segment_ids: A, num_sequences: int) -> Any:
    """A packed row taken for one sequence: every segment gets the ratio of all."""
    mask, known = segment_ids >= 0, np.unique(segment_ids[segment_ids >= 0])
    d = np.where(mask, logp, 0.0) - np.where(mask, old, 0.0)
    s = np.exp(np.minimum(d.sum() / max(1, mask.sum()), 50.0))
    gains = np.minimum(s * a[known], np.clip(s, 1 - LOW, 1 + HIGH) * a[known])
    return -gains.sum() / max(1, len(known))


def neighbour_leaks(logp: A, old: A, a: A, segment_ids: A, num_sequences: int) -> Any:
    """Segment borders off by one: the first token of each segment is summed into the one before."""
    d = np.where(segment_ids >= 0, logp, 0.0) - np.where(segment_ids >= 0, old, 0.0)
    shifted = np.append(segment_ids[1:], segment_ids[-1:])
    total = np.array([d[(shifted == i) & (segment_ids >= 0)].sum() for i in range(num_sequences)])
    length = np.array([(segment_ids == i).sum() for i in range(num_sequences)])
    s = np.exp(np.minimum(total / np.maximum(1, length), 50.0))
    gains = np.where(length > 0, np.minimum(s * a, np.clip(s, 1 - LOW, 1 + HIGH) * a), 0.0)
    return -gains.sum() / max(1, (length > 0).sum())


STRANGERS = "responses do not see each other"
ADVANTAGE, RESPONSES, TOKENS = Kind.ADVANTAGE, Kind.SEQUENCE_FRACTION, Kind.TOKEN_FRACTION
BESIDE = [
    Mutant(std_over_the_batch, GROUPS, ZScore(), "grpo-flat#2", kind=ADVANTAGE),
    Mutant(mean_over_the_batch, GROUPS, ZScore(), kind=ADVANTAGE),
    Mutant(rounding_blown_up, CONSTANT, ZScore(), "NeMo-RL#4158", kind=ADVANTAGE),
    Mutant(constant_is_nan, CONSTANT, ZScore(), kind=ADVANTAGE),
    Mutant(ddof_one, STATED, ZScore(), kind=ADVANTAGE),
    Mutant(eps_under_the_root, STATED, ZScore(eps=1e-4), kind=ADVANTAGE),
    Mutant(not_divided_by_others, STATED, LeaveOneOut(), kind=ADVANTAGE),
    Mutant(single_keeps_its_reward, "a reward for everybody changes nothing", ZScore(), "verl", kind=ADVANTAGE),
    Mutant(groups_by_position, "it does not matter in which order responses stand", ZScore(), kind=ADVANTAGE),
    Mutant(pairs_counted, COUNTS, LIKE, "NeMo-RL#3753", kind=RESPONSES),
    Mutant(either_side_counted, COUNTS, LIKE, "Fast-LLM, torchrl", kind=RESPONSES),
    Mutant(empty_rows_dilute, COUNTS, LIKE, kind=RESPONSES),
    Mutant(padding_counted, "padding never reaches the clip fraction", LIKE_GRPO, "ROLL: a fraction of 2.0", kind=TOKENS),
    Mutant(mean_of_means, MERGES, LIKE_GRPO, "trl#6380", kind=TOKENS),
    Mutant(one_row_pooled, STRANGERS, seen="Tunix#1662", kind=Kind.PACKED),
    Mutant(neighbour_leaks, STRANGERS, kind=Kind.PACKED),
]
