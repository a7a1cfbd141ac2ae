"""Group advantages are the papers', for any ids, order, group sizes and rewards (docs/theory.md, F1 to F7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.budgets import REL64, assert_close64, assert_same_bits, assert_within
from support.libraries import Library
from support.oracles import loss as oracle

from gspo_core import group_advantages
from gspo_core.advantages import Centred, LeaveOneOut, ZScore

POPULATION = ZScore()
NORMALISERS: list[tuple[Any, Any]] = [
    (POPULATION, oracle.zscore),
    (ZScore(ddof=1), lambda r, g: zscore_sample(r, g, 0.0)),
    (ZScore(ddof=1, eps=1e-4), lambda r, g: zscore_sample(r, g, 1e-4)),
    (ZScore(eps=0.5), lambda r, g: oracle.zscore(r, g, 0, 0.5)),
    (Centred(), oracle.centred),
    (LeaveOneOut(), oracle.leave_one_out),
]
by_normaliser = pytest.mark.parametrize(("normaliser", "judge"), NORMALISERS, ids=[repr(n[0]) for n in NORMALISERS])


def zscore_sample(rewards: list[float], ids: list[int], eps: float) -> list[float]:
    """ddof 1 divides by zero in the oracle for a singleton only if it is not constant, which it always is."""
    return oracle.zscore(rewards, ids, 1, eps)


@st.composite
def groups(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """(rewards, ids): 1..12 responses in arbitrary order; ids negative, huge and ragged; ties and constants likely."""
    n = draw(st.integers(1, 12))
    labels = draw(st.lists(st.integers(-(2**62), 2**62) | st.integers(-2, 2), min_size=1, max_size=4))
    ids = draw(st.lists(st.sampled_from(labels), min_size=n, max_size=n))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["binary", "normal", "few levels", "constant"]))
    rewards = {
        "binary": rng.integers(0, 2, n).astype(float),
        "normal": rng.normal(size=n) * 10 ** rng.uniform(-3, 3),
        "few levels": rng.integers(0, 4, n) / 3,
        "constant": np.full(n, rng.normal()),
    }[kind]
    return rewards, np.array(ids, dtype=np.int64)


def advantages(library: Library, rewards: Any, ids: Any, normaliser: Any = POPULATION, dtype: type = np.float64) -> np.ndarray:
    """Through the core on one library."""
    return library.numpy(group_advantages(library.array(rewards.astype(dtype)), library.array(ids), normaliser))


@by_normaliser
@given(data=groups())
def test_advantages_are_the_papers(library: Library, normaliser: Any, judge: Any, data: tuple) -> None:
    rewards, ids = data
    expected = judge(rewards.tolist(), ids.tolist())
    assert_close64(advantages(library, rewards, ids, normaliser), expected)


@by_normaliser
@given(data=groups())
def test_float32_rewards_lose_a_few_units(library: Library, normaliser: Any, judge: Any, data: tuple) -> None:
    """Deviations are good to an eps of the group's range, the standard deviation to a few; 12 members at most."""
    rewards, ids = data[0].astype(np.float32), data[1]
    out = advantages(library, rewards, ids, normaliser, np.float32)
    expected = np.array(judge(rewards.astype(np.float64).tolist(), ids.tolist()))
    assert out.dtype == np.float32
    assert_within(out, expected, 32 * np.finfo(np.float32).eps * np.abs(expected).max())


def test_hand_computed_numbers(library: Library) -> None:
    """Group 5: (1, 2, 6), mean 3, deviations (−2, −1, 3), Σ² = 14; group 9: (1, 0), mean ½."""
    rewards, ids = np.array([1.0, 1.0, 2.0, 0.0, 6.0]), np.array([5, 9, 5, 9, 5])
    expected = {
        Centred(): [-2, 0.5, -1, -0.5, 3],
        LeaveOneOut(): [-3, 1, -1.5, -1, 4.5],
        ZScore(): [-2 / (14 / 3) ** 0.5, 1, -1 / (14 / 3) ** 0.5, -1, 3 / (14 / 3) ** 0.5],
        ZScore(ddof=1): [-2 / 7**0.5, 0.5**0.5, -1 / 7**0.5, -(0.5**0.5), 3 / 7**0.5],
        ZScore(eps=0.5): [-2 / ((14 / 3) ** 0.5 + 0.5), 0.5, -1 / ((14 / 3) ** 0.5 + 0.5), -0.5, 3 / ((14 / 3) ** 0.5 + 0.5)],
    }
    for normaliser, numbers in expected.items():
        assert_close64(advantages(library, rewards, ids, normaliser), numbers)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("value", "size"), [(0.95, 7), (1 / 3, 5), (1e8, 6), (0.1, 3), (-1e-30, 4), (0.7, 1), (1e30, 9)])
@pytest.mark.parametrize("normaliser", [n[0] for n in NORMALISERS], ids=repr)
def test_a_constant_group_is_exactly_zero(library: Library, normaliser: Any, value: float, size: int, dtype: type) -> None:
    """F5. The mean of seven 0.95 is not 0.95: std would be 1e-16 and the z-score ±1."""
    rewards, ids = np.full(size, value), np.full(size, 3)
    assert_same_bits(np.abs(advantages(library, rewards, ids, normaliser, dtype)), np.zeros(size, dtype=dtype))


def test_the_obvious_code_fails_for_constants() -> None:
    """The guard of the test above."""
    rewards = np.full(7, 0.95)
    assert (rewards - rewards.mean()).any()


def test_a_constant_beside_a_varying_group_stays_zero(library: Library) -> None:
    rewards, ids = np.array([1e8, 0.0, 1e8, 1.0, 1e8]), np.array([1, 2, 1, 2, 1])
    assert advantages(library, rewards, ids).tolist() == [0, -1, 0, 1, 0]


def test_a_large_offset_does_not_drown_the_differences(library: Library) -> None:
    assert advantages(library, np.array([1e8, 1e8 + 8]), np.array([0, 0]), dtype=np.float32).tolist() == [-1, 1]


@given(data=groups())
def test_zscores_sum_to_zero_and_their_squares_to_the_size(library: Library, data: tuple) -> None:
    """F1, with G − 1 for the sample standard deviation."""
    rewards, ids = data
    for ddof in (0, 1):
        out = advantages(library, rewards, ids, ZScore(ddof=ddof))
        for label in np.unique(ids):
            own = out[ids == label]
            varies = len(np.unique(rewards[ids == label])) > 1
            assert_close64(own.sum(), 0.0, len(own))
            assert_close64((own**2).sum(), (len(own) - ddof) * varies, len(own))


@given(data=groups(), shift=st.floats(-100, 100), factor=st.floats(0.01, 100))
def test_zscores_know_neither_origin_nor_unit(library: Library, data: tuple, shift: float, factor: float) -> None:
    """F2. The shifted rewards are themselves rounded, by an eps of their size."""
    rewards, ids = data
    out = advantages(library, rewards, ids)
    assert_within(advantages(library, factor * rewards, ids), out, 1e-9 if len(set(rewards)) > 1 else 0.0)
    assert_close64(advantages(library, -rewards, ids), -out)
    moved = rewards * 0 + np.round(rewards * 8) / 8
    assert_close64(advantages(library, moved + round(shift), ids), advantages(library, moved, ids), 1.0)


@given(data=groups(), factor=st.floats(0.01, 100))
def test_eps_shrinks_by_the_known_factor(library: Library, data: tuple, factor: float) -> None:
    """F2: with eps, A = A₀ std/(std + eps), and scale invariance is gone."""
    rewards, ids = data
    out = advantages(library, rewards, ids, ZScore(eps=factor))
    for label in np.unique(ids):
        own = ids == label
        std = np.sqrt(np.mean((rewards[own] - rewards[own].mean()) ** 2))
        if len(np.unique(rewards[own])) > 1:
            assert_close64(out[own], advantages(library, rewards, ids)[own] * std / (std + factor), 10.0)


@given(data=groups())
def test_zscores_are_bounded(library: Library, data: tuple) -> None:
    """F3: √(G − 1) for the population, (G − 1)/√G for the sample standard deviation."""
    rewards, ids = data
    size = np.array([(ids == label).sum() for label in ids])
    assert (np.abs(advantages(library, rewards, ids)) <= np.sqrt(size - 1) * (1 + REL64)).all()
    assert (np.abs(advantages(library, rewards, ids, ZScore(ddof=1))) <= (size - 1) / np.sqrt(size) * (1 + REL64)).all()


@pytest.mark.parametrize(("right", "size"), [(1, 2), (1, 8), (3, 8), (7, 8), (0, 5), (5, 5)])
def test_binary_rewards(library: Library, right: int, size: int) -> None:
    """F4: √((1 − p)/p) and −√(p/(1 − p))."""
    rewards, ids = (np.arange(size) < right).astype(float), np.zeros(size, dtype=np.int64)
    p = right / size
    expected = [((1 - p) / p) ** 0.5 if r else -((p / (1 - p)) ** 0.5) for r in rewards] if 0 < p < 1 else np.zeros(size)
    assert_close64(advantages(library, rewards, ids), expected)


@given(data=groups(), seed=st.integers(0, 2**16))
def test_order_and_names_of_groups_do_not_matter(library: Library, data: tuple, seed: int) -> None:
    """F6. Summation order may differ: a few units of rounding."""
    rewards, ids = data
    order = np.random.default_rng(seed).permutation(len(ids))
    out = advantages(library, rewards, ids)
    assert_close64(advantages(library, rewards[order], ids[order]), out[order], 10.0)
    renamed = np.unique(ids, return_inverse=True)[1] * -7 + 3
    assert_close64(advantages(library, rewards, renamed), out, 10.0)


@given(data=groups())
def test_leave_one_out_is_centred_times_g_over_g_minus_one(library: Library, data: tuple) -> None:
    """F7."""
    rewards, ids = data
    size = np.array([(ids == label).sum() for label in ids])
    expected = advantages(library, rewards, ids, Centred()) * size / np.maximum(1, size - 1)
    assert_close64(advantages(library, rewards, ids, LeaveOneOut()), expected)


@pytest.mark.parametrize("normaliser", [n[0] for n in NORMALISERS], ids=repr)
def test_no_responses_have_no_advantages(library: Library, normaliser: Any) -> None:
    assert advantages(library, np.zeros(0), np.zeros(0, dtype=np.int64), normaliser).shape == (0,)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_ids_of_any_integer_dtype(library: Library, dtype: type) -> None:
    assert advantages(library, np.array([1.0, 0.0, 5.0]), np.array([7, 7, 0], dtype=dtype)).tolist() == [1, -1, 0]


def test_lists_become_a_float64_numpy_array() -> None:
    out = group_advantages([1, 0, 3], (4, 4, 2))
    assert isinstance(out, np.ndarray)
    assert out.dtype == np.float64
    assert out.tolist() == [1, -1, 0]
