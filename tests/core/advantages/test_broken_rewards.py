"""A reward that is no number shows in its own group's advantages alone, and `valid=` leaves it out as if it were absent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.budgets import assert_close64, assert_same_bits
from support.inputs.groups import POISON, advantages, groups
from support.libraries import NUMPY, Library
from support.oracles import advantages as judge
from support.oracles import loss as oracle

from gspo_core import group_advantages
from gspo_core.advantages import BatchStd, Centred, LeaveOneOut, MaxRL, ZScore, decoupled_advantages
from gspo_core.advantages.normalisers import Normaliser

ALL: list[tuple[Any, judge.Judge]] = [
    (BatchStd(), judge.batch_std),
    (BatchStd(eps=0.25), lambda r, g: judge.batch_std(r, g, eps=0.25)),
    (MaxRL(), judge.maxrl),
    (ZScore(), oracle.zscore),
    (Centred(), oracle.centred),
    (LeaveOneOut(), oracle.leave_one_out),
]


@pytest.mark.parametrize("reward", [np.nan, np.inf])
@pytest.mark.parametrize("normaliser", [ZScore(), Centred(), LeaveOneOut()], ids=repr)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # ∞ − ∞ is the point
def test_a_broken_verifier_is_not_silently_a_zero_advantage(library: Library, normaliser: Normaliser, reward: float) -> None:
    rewards, ids = np.array([reward, 1.0, 0.0, 1.0, 0.0]), np.array([0, 0, 0, 1, 1])
    out = library.numpy(group_advantages(library.array(rewards), library.array(ids), normaliser))
    assert np.isnan(out[:3]).all()
    assert np.isfinite(out[3:]).all()


@pytest.mark.parametrize(("normaliser", "truth"), ALL, ids=[repr(n[0]) for n in ALL])
@given(data=groups(), poison=st.sampled_from(POISON))
def test_an_invalid_reward_is_an_absent_one(
    library: Library, normaliser: Any, truth: judge.Judge, data: tuple, poison: float
) -> None:
    """Whatever it is; its own advantage is exactly 0."""
    rewards, ids, valid = data
    dirty = np.where(valid, rewards, poison)
    out = advantages(library, dirty, ids, normaliser, valid)
    expected = judge.without_invalid(truth, rewards.tolist(), ids.tolist(), valid.tolist())
    assert_close64(out, expected)
    assert not out[~valid].any()


@pytest.mark.parametrize("normaliser", [n[0] for n in ALL], ids=repr)
def test_a_constant_group_stays_exactly_zero_behind_an_invalid_member(library: Library, normaliser: Any) -> None:
    """Deviations start from the first valid member, not from the hole where the first one was."""
    rewards, ids = np.array([np.nan] + [0.95] * 7 + [0.0, 1.0]), np.array([3] * 8 + [4] * 2)
    out = advantages(library, rewards, ids, normaliser, np.isfinite(rewards))
    assert not out[:8].any()
    assert out[8:].any()


def test_no_normaliser_can_give_an_invalid_reward_an_advantage(library: Library) -> None:
    """A user's own, here one that returns 1 for everybody."""
    valid = np.array([True, False, True])
    out = advantages(library, np.ones(3), np.zeros(3, dtype=np.int64), lambda xp, group: xp.ones_like(group.reward), valid)
    assert out.tolist() == [1, 0, 1]


def test_the_invalid_draws_are_what_they_should_be() -> None:
    """The guard of the test above."""
    seen: set[str] = set()

    @settings(max_examples=40)
    @given(data=groups())
    def look(data: tuple) -> None:
        rewards, ids, valid = data
        varies = any(len(set(rewards[(ids == i) & valid])) > 1 and (~valid[ids == i]).any() for i in set(ids.tolist()))
        lost = any(not valid[ids == i].any() and valid.any() for i in set(ids.tolist()))
        seen.update(name for name, is_so in [("varies", varies), ("lost", lost), ("none", not valid.any())] if is_so)

    look()
    assert seen == {"varies", "lost", "none"}


@given(data=groups())
def test_all_valid_is_the_default_bit_by_bit(library: Library, data: tuple) -> None:
    rewards, ids, _ = data
    for normaliser, _ in ALL:
        given_all = advantages(library, rewards, ids, normaliser, np.ones(len(ids), dtype=bool))
        assert_same_bits(given_all, advantages(library, rewards, ids, normaliser))


def test_a_broken_reward_spoils_the_batch_std_everywhere() -> None:
    """Its scale is everybody's: said in its docstring, and cured by valid=."""
    rewards, ids = np.array([np.nan, 1.0, 0.0, 1.0]), np.array([0, 0, 1, 1])
    assert np.isnan(advantages(NUMPY, rewards, ids, BatchStd())).all()
    assert np.isfinite(advantages(NUMPY, rewards, ids, BatchStd(), np.isfinite(rewards))).all()
    assert np.isnan(advantages(NUMPY, rewards, ids, MaxRL())).tolist() == [True, True, False, False]


IDS = np.zeros(3, dtype=np.int64)
WRONG: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (TypeError, r"^valid: expected a boolean array such as isfinite\(rewards\), got dtype int", {"valid": np.ones(3, int)}),
    (TypeError, r"^valid: expected an array, got bool", {"valid": True}),
    (ValueError, r"^valid: expected shape \[3\] as rewards, got \[2\]", {"valid": np.ones(2, bool)}),
]


@pytest.mark.parametrize(("kind", "sentence", "wrong"), WRONG, ids=[w[1][1:40] for w in WRONG])
def test_a_wrong_valid_is_named(kind: type[Exception], sentence: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(kind, match=sentence):
        group_advantages(np.ones(3), IDS, **wrong)
    with pytest.raises(kind, match=sentence):
        decoupled_advantages(np.ones((2, 3)), IDS, **wrong)
