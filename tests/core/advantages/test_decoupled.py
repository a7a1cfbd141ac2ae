"""Several rewards are normalised one by one, then added: GDPO, arXiv 2601.05242."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.budgets import REL64, assert_close64, assert_same_bits, assert_within
from support.inputs.groups import POISON, groups
from support.libraries import Library
from support.oracles import advantages as judge
from support.oracles import loss as oracle

from gspo_core import group_advantages
from gspo_core.advantages import BatchStd, decoupled_advantages


@given(data=groups(), seed=st.integers(0, 2**16), scaled=st.booleans())
def test_decoupled_advantages_are_the_papers(library: Library, data: tuple, seed: int, scaled: bool) -> None:
    """GDPO, eq. 4-6, as a list and as one array [K, N]."""
    first, ids, _ = data
    rng = np.random.default_rng(seed)
    rewards = np.stack([first, rng.integers(0, 2, len(ids)).astype(float), rng.normal(size=len(ids)) * 100])
    weights = [1.0, 0.5, -2.0]
    parts = [oracle.zscore(row.tolist(), ids.tolist()) for row in rewards]
    expected = judge.decoupled(parts, weights, scaled)
    scale = BatchStd() if scaled else None
    together = decoupled_advantages(library.array(rewards), library.array(ids), weights, batch_scale=scale)
    apart = decoupled_advantages([library.array(row) for row in rewards], library.array(ids), weights, batch_scale=scale)
    # Sums that cancel by chance leave rounding of their terms, which the scale then magnifies.
    noise = max(1.0, np.abs(expected).max())
    unscaled = np.abs(judge.decoupled(parts, weights, False)).max()
    if unscaled == 0 or unscaled > 1e-3:
        assert_close64(library.numpy(together), expected, 100 * noise)
    assert_same_bits(library.numpy(together), library.numpy(apart))


def test_decoupling_tells_apart_what_a_sum_does_not(library: Library) -> None:
    """The paper's example: sums (0, 1) and (0, 2) have one z-score; one reward won is less than two."""
    ids = np.array([0, 0, 1, 1])
    first, second = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 0.0, 0.0, 1.0])
    summed = library.numpy(group_advantages(library.array(first + second), library.array(ids)))
    assert summed.tolist() == [-1, 1, -1, 1]
    parts = [library.array(first), library.array(second)]
    apart = library.numpy(decoupled_advantages(parts, library.array(ids), batch_scale=None))
    assert apart.tolist() == [-1, 1, -2, 2]
    scaled = library.numpy(decoupled_advantages(parts, library.array(ids)))
    assert_close64(scaled, np.array([-1, 1, -2, 2]) / 2.5**0.5)


def test_decoupled_constant_groups_are_exactly_zero_also_after_the_scale(library: Library) -> None:
    """Taking the batch's mean away again, which is 0 but for rounding, would give them a gradient."""
    ids = np.array([0] * 7 + [1] * 3)
    rewards = [np.array([0.95] * 7 + [0.1, 0.2, 0.9]), np.array([1 / 3] * 7 + [0.0, 1.0, 5.0])]
    out = library.numpy(decoupled_advantages([library.array(r) for r in rewards], library.array(ids)))
    assert not out[:7].any()
    assert out[7:].all()


@given(data=groups(), poison=st.sampled_from(POISON))
def test_decoupled_invalid_responses_are_absent(library: Library, data: tuple, poison: float) -> None:
    rewards, ids, valid = data
    dirty = library.array(np.stack([np.where(valid, rewards, poison), np.where(valid, rewards**2, poison)]))
    out = library.numpy(decoupled_advantages(dirty, library.array(ids), valid=library.array(valid)))
    assert not out[~valid].any()
    if valid.any():
        alone = library.array(np.stack([rewards, rewards**2])[:, valid])
        expected = library.numpy(decoupled_advantages(alone, library.array(ids[valid])))
        assert_within(out[valid], expected, REL64 * 10 * max(1.0, np.abs(expected).max(initial=0.0)))


def test_lists_of_rewards_become_a_numpy_array() -> None:
    out = decoupled_advantages([[1, 0], [0, 0]], [4, 4], valid=[True, True])
    assert isinstance(out, np.ndarray)
    assert out.tolist() == [1, -1]


IDS = np.zeros(3, dtype=np.int64)
DECOUPLED_WRONG: list[tuple[type[Exception], str, Any, Any]] = [
    (ValueError, r"^rewards: expected shape \[K, N\] or a sequence of \[N\], got \[3\]", np.ones(3), None),
    (ValueError, r"^rewards: expected at least one reward per response, got none", [], None),
    (ValueError, r"^rewards: expected at least one reward per response, got none", np.ones((0, 3)), None),
    (TypeError, r"^rewards: expected an array, got str", "text", None),
    (ValueError, r"^weights: expected 2 numbers, one for each of the rewards, got 1", np.ones((2, 3)), [1.0]),
    (ValueError, r"^weights: expected finite numbers, got \[1.0, nan\]", np.ones((2, 3)), [1.0, float("nan")]),
]


@pytest.mark.parametrize(("kind", "sentence", "rewards", "weights"), DECOUPLED_WRONG, ids=[w[1][1:45] for w in DECOUPLED_WRONG])
def test_wrong_rewards_and_weights_are_named(kind: type[Exception], sentence: str, rewards: Any, weights: Any) -> None:
    with pytest.raises(kind, match=sentence):
        decoupled_advantages(rewards, IDS, weights)
