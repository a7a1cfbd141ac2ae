"""OPO's and pass@k's advantages in exact fractions, in every library, with invalid responses; GiGPO as two calls."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.budgets import assert_close64, assert_within
from support.inputs.groups import POISON, advantages, groups
from support.libraries import Library
from support.oracles import advantages as judge

from gspo_core import group_advantages
from gspo_core.advantages import BestOfGroup, Centred, LengthWeighted, ZScore, reward_to_go


def lengths_for(rewards: np.ndarray, seed: int) -> np.ndarray:
    """Tokens of each response, some of them none."""
    return np.random.default_rng(seed).integers(0, 9, len(rewards))


@given(data=groups(), seed=st.integers(0, 99), poison=st.sampled_from(POISON))
def test_the_baseline_of_opo_weighs_rewards_by_length(library: Library, data: tuple, seed: int, poison: float) -> None:
    """An invalid response is an absent one, with its length."""
    rewards, ids, valid = data
    lengths = lengths_for(rewards, seed)
    dirty = np.where(valid, rewards, poison)
    out = advantages(library, dirty, ids, LengthWeighted(library.array(lengths)), valid)
    kept = [(r, g, n) for r, g, n, ok in zip(rewards.tolist(), ids.tolist(), lengths.tolist(), valid, strict=True) if ok]
    expected = np.zeros(len(rewards))
    expected[valid] = judge.length_weighted(*map(list, zip(*kept, strict=True))) if kept else []
    assert_close64(out, expected)
    assert not out[~valid].any()


@given(data=groups(), poison=st.sampled_from(POISON))
def test_the_best_of_a_group_has_its_distance_from_the_second(library: Library, data: tuple, poison: float) -> None:
    """And all others, ties included, have exactly nothing."""
    rewards, ids, valid = data
    out = advantages(library, np.where(valid, rewards, poison), ids, BestOfGroup(), valid)
    expected = judge.without_invalid(judge.best_of_group, rewards.tolist(), ids.tolist(), valid.tolist())
    assert out.tolist() == expected


@given(data=groups(), seed=st.integers(0, 99))
def test_float32_rewards_lose_a_few_units(library: Library, data: tuple, seed: int) -> None:
    rewards, ids, lengths = data[0].astype(np.float32), data[1], lengths_for(data[0], seed)
    exact = rewards.astype(np.float64).tolist()
    size = 64 * np.finfo(np.float32).eps * np.abs(rewards).max()
    for normaliser, truth in (
        (BestOfGroup(), judge.best_of_group(exact, ids.tolist())),
        (LengthWeighted(library.array(lengths)), judge.length_weighted(exact, ids.tolist(), lengths.tolist())),
    ):
        out = advantages(library, rewards, ids, normaliser, dtype=np.float32)
        assert out.dtype == np.float32
        assert_within(out, truth, size)


@pytest.mark.parametrize(("value", "size"), [(0.95, 7), (1 / 3, 5), (1e8, 6), (0.7, 1)])
def test_a_constant_group_is_exactly_zero(library: Library, value: float, size: int) -> None:
    rewards, ids = np.append(np.full(size, value), [0.0, 1.0]), np.append(np.full(size, 3), [9, 9])
    for normaliser in (BestOfGroup(), LengthWeighted(library.array(np.arange(1, size + 3)))):
        out = advantages(library, rewards, ids, normaliser)
        assert not out[:size].any()
        assert out[size:].any()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # ∞ − ∞ is the point
@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_a_broken_verifier_shows_in_its_group_alone(library: Library, reward: float) -> None:
    rewards, ids = np.array([reward, 1.0, 0.0, 1.0, 0.0]), np.array([0, 0, 0, 1, 1])
    for normaliser in (BestOfGroup(), LengthWeighted(library.array(np.arange(1, 6)))):
        out = advantages(library, rewards, ids, normaliser)
        assert np.isnan(out[:3]).all()
        assert np.isfinite(out[3:]).all()


def test_opo_is_the_mean_with_equal_lengths_and_no_baseline_has_less_variance_when_scores_are_as_large_as_lengths() -> None:
    """Σ_j L_j (r_j − b)² is least at OPO's b: the variance of Σ L (r − b) if a response's score has the variance L."""
    rewards, ids = [3.0, 1.0, 0.5, 0.0], [0, 0, 0, 0]
    same = group_advantages(rewards, ids, LengthWeighted(np.full(4, 7)))
    np.testing.assert_allclose(same, group_advantages(rewards, ids, Centred()), rtol=1e-15)
    lengths = np.array([10, 200, 30, 5])
    baseline = 3.0 - group_advantages(rewards, ids, LengthWeighted(lengths))[0]

    def variance(b: float) -> float:
        return math.fsum(n * (r - b) ** 2 for n, r in zip(lengths, rewards, strict=True))

    assert all(variance(baseline) < variance(baseline + step) for step in (-0.1, -1e-3, 1e-3, 0.1))


def test_the_best_of_the_group_is_the_gradient_of_the_expected_maximum() -> None:
    """E Σ_i A_i ∂log π(y_i)/∂θ = d/dθ E max_i r_i over groups of three, for a policy over three rewards, exactly."""
    levels, logits, size = np.array([0.0, 0.3, 1.0]), np.array([0.2, -0.4, 0.1]), 3

    def chances(z: np.ndarray) -> np.ndarray:
        return np.exp(z) / np.exp(z).sum()

    def expected_maximum(z: np.ndarray) -> float:
        return math.fsum(np.prod(chances(z)[list(o)]) * max(levels[list(o)]) for o in itertools.product(range(3), repeat=size))

    p, total, h = chances(logits), np.zeros(3), 1e-5
    for outcome in itertools.product(range(3), repeat=size):
        a = group_advantages(levels[list(outcome)], np.zeros(size, dtype=np.int64), BestOfGroup())
        total += np.prod(p[list(outcome)]) * sum(x * (np.eye(3)[y] - p) for x, y in zip(a, outcome, strict=True))
    steps = [(expected_maximum(logits + h * e) - expected_maximum(logits - h * e)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(total, steps, rtol=0, atol=1e-9)
    assert np.abs(total).max() > 0.05


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 4), st.floats(0, 4), st.integers(0, 3)), min_size=1, max_size=8))
def test_gigpo_is_two_calls_with_episodes_and_with_states_as_groups(rows: list[tuple[int, float, float, int]]) -> None:
    """Every row is an episode of two steps: (task, reward of either step, state of the second; all begin in state 9)."""
    tasks, rewards = np.array([r[0] for r in rows]), np.array([[r[1], r[2]] for r in rows])
    states = np.array([[9, r[3]] for r in rows])
    episode = group_advantages(rewards.sum(axis=1), tasks, Centred())
    same = (tasks[:, None] * 16 + states).reshape(-1)  # a state is shared within a task
    step = group_advantages(np.asarray(reward_to_go(rewards)).reshape(-1), same, Centred()).reshape(-1, 2)
    found, omega = episode[:, None] + 0.5 * step, 0.5
    for i, (task, first, second, state) in enumerate(rows):
        mine = [r for r in rows if r[0] == task]
        total = first + second - math.fsum(r[1] + r[2] for r in mine) / len(mine)
        at_start = first + second - math.fsum(r[1] + r[2] for r in mine) / len(mine)
        there = [r[2] for r in mine if r[3] == state] + [r[1] + r[2] for r in mine if state == 9]
        later = second - math.fsum(there) / len(there)
        np.testing.assert_allclose(found[i], [total + omega * at_start, total + omega * later], rtol=1e-11, atol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(-4, 4), st.integers(0, 5)), min_size=2, max_size=8), st.booleans())
def test_reinforce_plus_plus_whitens_over_the_tokens(rows: list[tuple[int, float, int]], grouped: bool) -> None:
    """Every token written out: mean and variance over them, with n − 1; a response of more tokens counts more."""
    ids, rewards, lengths = (np.array(x) for x in zip(*rows, strict=True))
    assume(lengths.sum() > 1)
    a = group_advantages(rewards, ids, Centred()) if grouped else rewards
    total = lengths.sum()
    m = (lengths * a).sum() / total
    found = (a - m) / np.sqrt((lengths * (a - m) ** 2).sum() / (total - 1) + 1e-8)
    at_tokens = [float(x) for x, n in zip(a, lengths, strict=True) for _ in range(n)]
    mean = math.fsum(at_tokens) / len(at_tokens)
    variance = math.fsum((x - mean) ** 2 for x in at_tokens) / (len(at_tokens) - 1)
    np.testing.assert_allclose(found, (a - mean) / math.sqrt(variance + 1e-8), rtol=1e-7, atol=1e-7)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.0, 1.0, -0.5])), min_size=1, max_size=8))
def test_gpg_divides_by_the_rewards_that_are_not_0(rows: list[tuple[int, float]]) -> None:
    rewards, ids = np.array([r for _, r in rows]), np.array([g for g, _ in rows])
    found = group_advantages(rewards, ids, Centred()) * len(rewards) / max(1, np.count_nonzero(rewards))
    for x, (group, r) in zip(found, rows, strict=True):
        mine = [y for g, y in rows if g == group]
        share = len(rows) / max(1, sum(y != 0 for _, y in rows))
        assert math.isclose(x, share * (r - math.fsum(mine) / len(mine)), rel_tol=1e-11, abs_tol=1e-12)


WRONG: list[tuple[type[Exception], str, Any]] = [
    (TypeError, r"^lengths: expected an array, got list", lambda: LengthWeighted([1, 2])),
    (TypeError, r"^lengths: expected integers or real numbers, got dtype bool", lambda: LengthWeighted(np.ones(2, dtype=bool))),
    (
        ValueError,
        r"^lengths: expected shape \[2\] as rewards, got \[3\]",
        lambda: group_advantages([1.0, 0.0], [0, 0], LengthWeighted(np.ones(3))),
    ),
]


@pytest.mark.parametrize(("kind", "sentence", "call"), WRONG, ids=[w[1][1:40] for w in WRONG])
def test_wrong_lengths_are_named(kind: type[Exception], sentence: str, call: Any) -> None:
    with pytest.raises(kind, match=sentence):
        call()


def test_a_normaliser_of_ones_own_may_sum_over_the_group_by_its_label(library: Library) -> None:
    """`GroupView.label`: equal within a group and different between two, an index below N."""
    seen: list[Any] = []

    def look(_: Any, group: Any) -> Any:
        seen.append(library.numpy(group.label))
        return group.deviation

    ids = np.array([7, -5, 7, 0, -5])
    advantages(library, np.arange(5.0), ids, look)
    assert ((seen[0][:, None] == seen[0]) == (ids[:, None] == ids)).all()
    assert seen[0].min() >= 0
    assert seen[0].max() < 5
    assert not group_advantages([0.5], [0], ZScore()).any()
