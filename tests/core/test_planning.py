"""Responses without an advantage need not be run: dropped before the model, they leave the loss what it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.budgets import REL64, assert_close64, assert_within
from support.libraries import LIBRARIES, Library
from support.oracles import loss as oracle

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Packed, Padded, group_advantages, plan, policy_loss
from gspo_core.advantages import Centred, decoupled_advantages
from gspo_core.laws.kit.oracle import ScalarLoss, scalar_loss
from gspo_core.objectives import DAPO, DR_GRPO, presets
from gspo_core.planning import Plan

CONSTANT = [0.95] * 7


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[float], list[int], Any, Any, Any]:
    """(rewards, group ids, log-probs, old ones, mask): ties in many groups, empty responses, holes."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    ids = [label for label, size in enumerate(sizes) for _ in range(size)]
    rewards = [draw(st.sampled_from([0.0, 0.1, 0.95, 1.0])) for _ in ids]
    width = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    mask = rng.random((len(ids), width)) < 0.8
    old = -rng.exponential(size=mask.shape)
    return rewards, ids, old + 0.3 * rng.normal(size=mask.shape), old, mask


def oracle_loss(name: str, logp: Any, old: Any, advantage: list[float], mask: Any) -> ScalarLoss:
    """The whole batch in scalar loops, nobody dropped; D its own count."""
    tokens = [[a] * mask.shape[1] for a in advantage]
    return scalar_loss(getattr(presets, name), logp.tolist(), old.tolist(), tokens, mask.tolist())


@pytest.mark.parametrize("name", ["GSPO", "GSPO_TOKEN", "GRPO", "DAPO"])
@given(batch=batches())
def test_the_loss_of_what_is_kept_is_the_loss_of_all(name: str, batch: Any) -> None:
    """Value and weights over the rows of the plan are those of the whole batch by the oracle; left-out rows have none."""
    rewards, ids, logp, old, mask = batch
    objective = {"GSPO": GSPO, "GSPO_TOKEN": GSPO_TOKEN, "GRPO": GRPO, "DAPO": DAPO}[name]
    planned = plan(rewards, ids)
    step = planned.step(objective, Padded(mask))
    kept = step.rows
    part = policy_loss(
        objective, logp[kept], old[kept], planned.advantage[kept], Padded(mask[kept]), denominator=step.denominator
    )
    expected = oracle_loss(name, logp, old, oracle.zscore(rewards, ids), mask)
    assert_within(part.value, expected.value, REL64 * max(1.0, expected.scale))
    assert_close64(part.logp_grad, np.array(expected.weight)[kept], scale=1.0)
    left_out = np.setdiff1d(np.arange(len(rewards)), kept)
    assert np.all(np.array(expected.weight)[left_out] == 0)


@given(batch=batches())
def test_exactly_the_responses_without_an_advantage_are_left_out(batch: Any) -> None:
    rewards, ids, *_ = batch
    assert plan(rewards, ids).keep.tolist() == [a != 0 for a in oracle.zscore(rewards, ids)]
    assert plan(rewards, ids, Centred()).keep.tolist() == [a != 0 for a in oracle.centred(rewards, ids)]


@given(batch=batches())
def test_a_denominator_of_the_kept_alone_would_be_wrong(batch: Any) -> None:
    """The guard of the two tests above: something is left out, and it matters."""
    rewards, ids, logp, old, mask = batch
    planned = plan(rewards, ids)
    kept = planned.step(GSPO, Padded(mask)).rows
    whole = policy_loss(GSPO, logp, old, planned.advantage, Padded(mask))
    assume(len(kept) and np.any(mask[~planned.keep]) and abs(whole.value) > 1e-6)
    alone = policy_loss(GSPO, logp[kept], old[kept], planned.advantage[kept], Padded(mask[kept]))
    assert abs(alone.value) > abs(whole.value) * 1.01


def test_the_denominator_counts_sequences_or_tokens_of_all() -> None:
    """By hand: four responses of 2, 1, 3 and 0 tokens, the first two kept."""
    mask = np.array([[True, True, False], [True, False, False], [True, True, True], [False, False, False]])
    planned = plan([1.0, 0.0, 0.5, 0.5], [3, 3, 8, 8])
    assert planned.advantage.tolist() == [1.0, -1.0, 0.0, 0.0]
    counts = {"GSPO": GSPO, "GSPO_TOKEN": GSPO_TOKEN, "DAPO": DAPO, "DR_GRPO": DR_GRPO}
    found = {name: int(planned.step(objective, Padded(mask)).denominator) for name, objective in counts.items()}
    assert found == {"GSPO": 3, "GSPO_TOKEN": 3, "DAPO": 6, "DR_GRPO": int(DR_GRPO.count(Padded(mask)))}
    packed = Packed(np.array([0, 0, 1, 2, 2, 2, -1]), 4)
    assert planned.step(GSPO, packed).rows.tolist() == [0, 1]
    assert int(planned.step(DAPO, packed).denominator) == 6


def test_a_constant_group_is_left_out_whatever_its_rewards_are() -> None:
    """The mean of seven times 0.95 is not 0.95 in floating point."""
    assert sum(CONSTANT) / 7 != 0.95
    planned = plan([*CONSTANT, 1.0, 0.0], [1] * 7 + [2] * 2)
    assert planned.keep.tolist() == [False] * 7 + [True] * 2


@pytest.mark.parametrize("mask", [np.ones((7, 2), dtype=bool), np.zeros((7, 2), dtype=bool)], ids=["tokens", "empty"])
def test_a_batch_without_any_advantage_has_nothing_to_run_and_a_denominator(mask: Any) -> None:
    step = plan(CONSTANT, [0] * 7).step(DAPO, Padded(mask))
    assert step.rows.tolist() == []
    assert int(step.denominator) == (14 if mask.any() else 1)


def test_other_terms_of_the_loss_keep_every_response() -> None:
    planned = plan([*CONSTANT, 1.0, 0.0], [1] * 7 + [2] * 2, loss_has_other_terms=True)
    assert planned.keep.all()
    assert planned.step(GSPO, Padded(np.ones((9, 1), dtype=bool))).rows.tolist() == list(range(9))
    assert (planned.advantage == 0).any()


def test_a_step_takes_its_rows_in_their_order() -> None:
    planned = plan([1.0, 0.0, 0.5, 0.5, 0.0, 2.0], [0, 0, 1, 1, 2, 2])
    layout = Padded(np.ones((4, 3), dtype=bool))
    step = planned.step(DAPO, layout, rows=[5, 2, 0, 3])
    assert step.rows.tolist() == [5, 0]
    assert int(step.denominator) == 12
    assert planned.step(GSPO, Padded(np.zeros((0, 3), dtype=bool)), rows=[]).rows.tolist() == []


def test_a_reward_that_is_no_number_is_run_and_shows() -> None:
    rewards, ids = [1.0, float("nan"), 0.5, 0.5], [0, 0, 1, 1]
    assert plan(rewards, ids).keep.tolist() == [True, True, False, False]
    assert plan(rewards, ids, valid=[True, False, True, True]).keep.tolist() == [False] * 4


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_the_plan_stays_on_the_host_for_every_library(library: Library) -> None:
    rewards, ids = np.array([1.0, 0.0, 0.5, 0.5]), np.array([0, 0, 1, 1])
    planned = plan(library.array(rewards), library.array(ids))
    step = planned.step(GSPO, Padded(library.array(np.ones((4, 2), dtype=bool))), library.array(np.arange(4)))
    assert isinstance(step.rows, np.ndarray)
    assert step.rows.tolist() == [0, 1]
    assert int(step.denominator) == 4
    np.testing.assert_array_equal(library.numpy(planned.advantage), group_advantages(rewards, ids))


def test_advantages_from_elsewhere_become_a_plan() -> None:
    advantage = decoupled_advantages([[1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 2.0, 2.0]], [0, 0, 1, 1])
    assert Plan(advantage).keep.tolist() == [False, False, True, True]
