"""BatchStd and MaxRL are the papers' formulas, in exact fractions; the other normalisers are in test_groups.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from support.budgets import assert_close64, assert_within
from support.inputs.groups import advantages, groups
from support.libraries import NUMPY, Library
from support.oracles import advantages as judge

from gspo_core.advantages import BatchStd, MaxRL, ZScore

NEW: list[tuple[Any, judge.Judge]] = [
    (BatchStd(), judge.batch_std),
    (BatchStd(eps=0.25), lambda r, g: judge.batch_std(r, g, eps=0.25)),
    (MaxRL(), judge.maxrl),
]


@pytest.mark.parametrize(("normaliser", "truth"), NEW, ids=[repr(n[0]) for n in NEW])
@given(data=groups())
def test_advantages_are_the_papers(library: Library, normaliser: Any, truth: judge.Judge, data: tuple) -> None:
    rewards, ids, _ = data
    assert_close64(advantages(library, rewards, ids, normaliser), truth(rewards.tolist(), ids.tolist()))


@pytest.mark.parametrize(("normaliser", "truth"), NEW, ids=[repr(n[0]) for n in NEW])
@given(data=groups())
def test_float32_rewards_lose_a_few_units(library: Library, normaliser: Any, truth: judge.Judge, data: tuple) -> None:
    """As for z-scores; a mean of rewards at least 0 has no cancellation to speak of."""
    rewards, ids = data[0].astype(np.float32), data[1]
    out = advantages(library, rewards, ids, normaliser, dtype=np.float32)
    expected = np.array(truth(rewards.astype(np.float64).tolist(), ids.tolist()))
    assert out.dtype == np.float32
    assert_within(out, expected, 64 * np.finfo(np.float32).eps * np.abs(expected).max())


def test_hand_computed_numbers(library: Library) -> None:
    """Groups (4, 0) and (2, 2, 2): mean of all 2, Σ(r − 2)² = 8 over 5; success rates ¼ and 1."""
    rewards, ids = np.array([4.0, 2.0, 0.0, 2.0, 2.0]), np.array([1, 3, 1, 3, 3])
    assert_close64(advantages(library, rewards, ids, BatchStd()), [2 / 1.6**0.5, 0, -2 / 1.6**0.5, 0, 0])
    assert_close64(advantages(library, rewards, ids, BatchStd(ddof=1)), [2**0.5, 0, -(2**0.5), 0, 0])
    assert_close64(advantages(library, rewards, ids, BatchStd(ddof=1, eps=2**0.5)), [2**-0.5, 0, -(2**-0.5), 0, 0])
    right = np.array([0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    assert_close64(advantages(library, right, np.array([0, 0, 0, 0, 1, 1]), MaxRL()), [-1, 3, -1, -1, 0, 0])


def test_maxrl_is_the_gradient_of_truncated_log_likelihood() -> None:
    """E[Σ_i A_i ∂log π(y_i)/∂θ]/G over groups of binary rewards = d/dθ of −Σ_{k < G} (1 − p)^k/k, for p = σ(θ), exactly.

    Without the mean as a baseline it would be k ≤ G: the groups without a success, which have no advantage, cost an order.
    """
    theta = 0.3
    p = 1 / (1 + np.exp(-theta))
    for size in (1, 2, 5):
        total = 0.0
        for outcome in range(2**size):
            rewards = np.array([(outcome >> i) & 1 for i in range(size)], dtype=float)
            chance = np.prod(np.where(rewards > 0, p, 1 - p))
            a = advantages(NUMPY, rewards, np.zeros(size, dtype=np.int64), MaxRL())
            total += chance * np.sum(a * (rewards - p)) / size
        order = np.arange(1, size)
        expected = np.sum((1 - p) ** (order - 1)) * p * (1 - p)
        assert_close64(total, expected, 1.0)


def test_maxrl_without_a_positive_mean_is_zero(library: Library) -> None:
    rewards, ids = np.array([0.0, 0.0, -1.0, 1.0, -3.0, 1.0]), np.array([0, 0, 1, 1, 2, 2])
    assert not advantages(library, rewards, ids, MaxRL()).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("value", "size"), [(0.95, 7), (1 / 3, 5), (1e8, 6), (0.7, 1)])
@pytest.mark.parametrize("normaliser", [n[0] for n in NEW], ids=repr)
def test_a_constant_group_is_exactly_zero(library: Library, normaliser: Any, value: float, size: int, dtype: type) -> None:
    """Alone, and beside a group that varies."""
    rewards, ids = np.full(size, value), np.full(size, 3)
    assert not advantages(library, rewards, ids, normaliser, dtype=dtype).any()
    beside = advantages(library, np.append(rewards, [0.0, 1.0]), np.append(ids, [9, 9]), normaliser, dtype=dtype)
    assert not beside[:size].any()
    assert beside[size:].all()


@pytest.mark.parametrize("make", [ZScore, BatchStd])
def test_wrong_options_of_a_normaliser_are_named(make: Any) -> None:
    with pytest.raises(ValueError, match=r"^ddof: expected a whole number of at least 0 and at most 1, got 2"):
        make(ddof=2)
    with pytest.raises(ValueError, match=r"^eps: expected a finite number of at least 0, got -1"):
        make(eps=-1.0)
