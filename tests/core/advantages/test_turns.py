"""Every token gets the advantage of its turn; rewards to go, with a baseline from the others, are unbiased."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.budgets import assert_close64, assert_same_bits
from support.cases import Batch, batches
from support.libraries import NUMPY, TORCH, Library
from support.oracles import advantages as judge

from gspo_core import GSPO_TOKEN, Packed, Padded, policy_loss
from gspo_core.advantages import reward_to_go, turn_advantages


@given(batch=batches(), turns=st.integers(1, 4), seed=st.integers(0, 2**16), dtype=st.sampled_from([np.int32, np.int64]))
def test_a_token_gets_the_number_of_its_turn(library: Library, batch: Batch, turns: int, seed: int, dtype: type) -> None:
    """Bit by bit, in any order of turns, with any ids in masked slots and any numbers for turns without a token."""
    rng = np.random.default_rng(seed)
    ids = np.where(batch.mask, rng.integers(0, turns, batch.mask.shape), rng.integers(-9, 99, batch.mask.shape)).astype(dtype)
    values = rng.normal(size=(len(batch.mask), turns))
    for i, m in itertools.product(range(len(values)), range(turns)):
        if not (batch.mask[i] & (ids[i] == m)).any():
            values[i, m] = np.nan
    out = library.numpy(turn_advantages(library.array(values), library.array(ids), Padded(library.array(batch.mask))))
    expected = [[values[i, ids[i, t]] if ok else 0.0 for t, ok in enumerate(row)] for i, row in enumerate(batch.mask.tolist())]
    assert_same_bits(out, np.reshape(np.array(expected, dtype=np.float64), batch.mask.shape))


def test_packed_and_padded_agree(library: Library) -> None:
    values = library.array(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    packed = Packed(library.array(np.array([0, 0, 2, -1, 2, 1])), 3)
    out = turn_advantages(values, library.array(np.array([0, 1, 1, 7, 0, 0])), packed)
    assert library.numpy(out).tolist() == [1, 2, 6, 0, 5, 3]


def test_a_token_without_a_turn_shows(library: Library) -> None:
    """Not 0, which would pass for "no signal", nor the nearest turn's number."""
    layout = Padded(library.array(np.array([[True, True, True, False]])))
    out = turn_advantages(library.array(np.array([[1.0, 2.0]])), library.array(np.array([[0, 2, -1, 5]])), layout)
    assert np.isnan(library.numpy(out)).tolist() == [[False, True, True, False]]


def test_float32_stays_and_integers_become_float32(library: Library) -> None:
    layout = Padded(library.array(np.array([[True]])))
    for dtype in (np.float32, np.int64):
        out = library.numpy(turn_advantages(library.array(np.ones((1, 1), dtype)), library.array(np.array([[0]])), layout))
        assert out.dtype == np.float32


@given(rewards=st.lists(st.lists(st.floats(-10, 10), min_size=3, max_size=3), min_size=1, max_size=4))
def test_rewards_to_go_are_sums_of_what_is_left(library: Library, rewards: list[list[float]]) -> None:
    out = library.numpy(reward_to_go(library.array(np.array(rewards))))
    assert_close64(out, [judge.to_go(row) for row in rewards], 30.0)


# A dialogue of at most two turns with one token each: stop (0) or go on (1), then one of two answers. The policy decides
# whether there is a second turn.
PATHS: list[tuple[int, ...]] = [(0,), (1, 0), (1, 1)]
REWARDS = {(0,): [0.3, 0.0], (1, 0): [0.5, -0.2], (1, 1): [0.5, 2.0]}
LOGITS = np.array([0.4, -0.7])


def chance_and_score(path: tuple[int, ...]) -> tuple[float, np.ndarray]:
    """(π(path), ∂log π of each turn's token by the two logits): [turn, logit]."""
    one = 1 / (1 + np.exp(-LOGITS))
    chance = float(np.prod([one[m] if action else 1 - one[m] for m, action in enumerate(path)]))
    score = np.zeros((2, 2))
    for m, action in enumerate(path):
        score[m, m] = action - one[m]
    return chance, score


def expected_gradient(advantages: Any) -> np.ndarray:
    """E over pairs of responses of Σ_t A_1t ∂log π(y_1t), where advantages(turn rewards [2, 2], lengths) is [2, 2]."""
    total = np.zeros(2)
    for pair in itertools.product(PATHS, PATHS):
        chances, scores = zip(*(chance_and_score(path) for path in pair), strict=True)
        has_turn = np.array([[True, len(path) > 1] for path in pair])
        per_turn = advantages(np.array([REWARDS[path] for path in pair]), has_turn)
        spread = turn_advantages(per_turn, np.array([[0, 1], [0, 1]]), Padded(has_turn))
        total += chances[0] * chances[1] * spread[0] @ scores[0]
    return total


def exact_gradient() -> np.ndarray:
    """∂E[Σ_m r_m]/∂logits."""
    pairs = [(sum(REWARDS[path]), *chance_and_score(path)) for path in PATHS]
    return np.sum([reward * chance * score.sum(axis=0) for reward, chance, score in pairs], axis=0)


def test_rewards_to_go_minus_the_others_total_are_unbiased() -> None:
    """Exactly, over all pairs of responses, although the policy decides how many turns there are."""
    out = expected_gradient(lambda rewards, _: reward_to_go(rewards) - rewards.sum(axis=1)[::-1, None])
    assert_close64(out, exact_gradient())
    assert np.abs(exact_gradient()).min() > 1e-2


def test_a_turns_own_reward_alone_is_biased() -> None:
    """Why rewards go back: the first turn is not told what it led to."""
    assert np.abs(expected_gradient(lambda rewards, _: rewards) - exact_gradient()).max() > 1e-2


def test_the_mean_per_turn_index_is_biased() -> None:
    """Why there is no such normaliser: the responses that reach turn m, this one among them, are chosen by the policy."""

    def per_index(rewards: np.ndarray, has_turn: np.ndarray) -> np.ndarray:
        left = reward_to_go(rewards)
        return left - np.sum(np.where(has_turn, left, 0.0), axis=0) / np.maximum(1, has_turn.sum(axis=0))

    out = expected_gradient(per_index)
    # Not even up to a factor.
    assert np.abs(out / exact_gradient() - (out / exact_gradient())[0]).max() > 1e-2


def test_turns_reach_the_loss() -> None:
    layout = Padded(np.array([[True, True, True, False]]))
    a = turn_advantages(np.array([[2.0, -1.0]]), np.array([[0, 0, 1, 0]]), layout)
    old = np.zeros((1, 4))
    assert_close64(policy_loss(GSPO_TOKEN, old, old, a, layout).logp_grad, [[-2 / 3, -2 / 3, 1 / 3, 0]])


LAYOUT = Padded(np.ones((2, 3), dtype=bool))
VALUES, IDS = np.ones((2, 4)), np.zeros((2, 3), dtype=np.int64)
WRONG: list[tuple[type[Exception], str, Any, Any, Any]] = [
    (TypeError, r"^layout: expected a layout such as Padded\(mask\), got ndarray", VALUES, IDS, np.ones((2, 3), bool)),
    (TypeError, r"^turn_values: expected an array, got list", [[1.0]], IDS, LAYOUT),
    (TypeError, r"^turn_values: expected real numbers, got dtype bool", VALUES > 0, IDS, LAYOUT),
    (ValueError, r"^turn_values: expected shape \[N, M\], one number per turn, got \[2\]", VALUES[:, 0], IDS, LAYOUT),
    (
        ValueError,
        r"^turn_values: expected one row for each of the layout's 2 sequences, got \[3, 4\]",
        np.ones((3, 4)),
        IDS,
        LAYOUT,
    ),
    (TypeError, r"^turn_ids: expected integers, got dtype float64", VALUES, np.zeros((2, 3)), LAYOUT),
    (ValueError, r"^turn_ids: expected the layout's shape \[2, 3\], got \[2, 4\]", VALUES, np.zeros((2, 4), int), LAYOUT),
    (TypeError, r"^turn_ids: expected an array of one library with .*, got torch", VALUES, TORCH.array(IDS), LAYOUT),
]


@pytest.mark.parametrize(("kind", "sentence", "values", "ids", "layout"), WRONG, ids=[w[1][1:55] for w in WRONG])
def test_wrong_arguments_are_named(kind: type[Exception], sentence: str, values: Any, ids: Any, layout: Any) -> None:
    with pytest.raises(kind, match=sentence):
        turn_advantages(values, ids, layout)


def test_wrong_turn_rewards_are_named() -> None:
    with pytest.raises(ValueError, match=r"^turn_rewards: expected shape \[N, M\], one number per turn, got \[3\]"):
        reward_to_go(np.ones(3))
    with pytest.raises(TypeError, match=r"^turn_rewards: expected an array, got list"):
        reward_to_go([[1.0]])
    assert NUMPY.numpy(reward_to_go(np.zeros((0, 0)))).shape == (0, 0)
