"""What backends rely on: the weight as a function, and the tokens that a loss needs.

Second derivatives through a model, in every framework, are in backend_torch and backend_jax.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from support.budgets import REL64, assert_within
from support.cases import Batch, batches
from support.draws import at_most
from support.family import Member, by_member, largest

from gspo_core import GSPO, GSPO_TOKEN, Objective, Packed, Padded, PerToken, Turns, policy_loss, sharded
from gspo_core.backend import active_tokens, weight_as_function
from gspo_core.layouts import Layout
from gspo_core.objectives import CISPO, SequenceMean, Turn

MASK = np.array([[True, True, False], [True, False, False], [False, False, False], [True, True, True]])


class Held:
    """A stop-gradient for finite differences: what is held constant has the values of the first evaluation."""

    def __init__(self) -> None:
        self.first: list[np.ndarray] = []
        self.calls = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self.calls == len(self.first):
            self.first.append(np.copy(x))
        self.calls += 1
        return self.first[self.calls - 1]


def weight_of(objective: Objective, old: Any, advantage: Any, layout: Layout) -> Callable[[np.ndarray], np.ndarray]:
    """Log-probs ↦ weight_as_function there; what it holds is held from the first call on."""
    held = Held()

    def weight(logp: np.ndarray) -> np.ndarray:
        held.calls = 0
        loss = policy_loss(objective, logp, old, advantage, layout, on_policy=old is None)
        known = {"weight": loss.logp_grad, "denominator": loss.denominator}
        found: np.ndarray = weight_as_function(objective, logp, old, advantage, layout, **known, hold_constant=held)
        return found

    return weight


def slope(function: Callable[[np.ndarray], np.ndarray], at: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Its derivative along a direction, by central differences around the first evaluation."""
    function(at)
    return (function(at + 1e-5 * direction) - function(at - 1e-5 * direction)) / 2e-5


@by_member
@at_most(15)
@given(batch=batches(edges=False))
def test_the_function_has_the_value_of_the_weight(member: Member, batch: Batch) -> None:
    layout = Padded(batch.mask)
    for old in (batch.old_logp, None):
        loss = policy_loss(member.objective, batch.logp, old, batch.advantage, layout, on_policy=old is None)
        again = weight_of(member.objective, old, batch.advantage, layout)(batch.logp)
        size = np.abs(loss.logp_grad).max(initial=0.0) * (1 + largest(batch))
        assert_within(again, loss.logp_grad, REL64 * size)


ONE = Padded(np.array([[True, True, False, True]]))
LOGP = np.array([[0.1, -0.05, 0.0, 0.1]])
DIRECTION = np.array([[1.0, 0.5, 7.0, -0.25]])
INSIDE = np.where(ONE.mask, DIRECTION, 0.0)


def test_the_derivative_for_gspo_is_that_of_the_sequence_ratio() -> None:
    """−A s/L² 11ᵀ with L = 3 and s = e^0.05, by hand; a masked slot neither moves nor is moved."""
    found = slope(weight_of(GSPO.with_clip(0.2, 0.2), np.zeros((1, 4)), np.array([2.0]), ONE), LOGP, DIRECTION)
    assert_within(found, np.where(ONE.mask, -2.0 * np.exp(0.05) / 9 * INSIDE.sum(), 0.0), 1e-8)


def test_the_derivative_for_gspo_token_is_the_tokens_own() -> None:
    """−A s/L on the diagonal: the paper holds s_i, so that finite differences of the loss's weight would be others."""
    objective = GSPO_TOKEN.with_clip(0.2, 0.2)
    found = slope(weight_of(objective, np.zeros((1, 4)), np.array([2.0]), ONE), LOGP, DIRECTION)
    assert_within(found, -2.0 * np.exp(0.05) / 3 * INSIDE, 1e-8)
    free = slope(lambda x: policy_loss(objective, x, np.zeros((1, 4)), np.array([2.0]), ONE).logp_grad, LOGP, DIRECTION)
    assert np.abs(free - found).max() > 0.1


def test_on_policy_the_old_log_probs_are_held() -> None:
    """The ratio is 1, and its derivative is that of GSPO all the same."""
    found = slope(weight_of(GSPO, None, np.array([2.0]), ONE), LOGP, 1e-3 * DIRECTION)
    assert_within(found, np.where(ONE.mask, -2.0 / 9 * 1e-3 * INSIDE.sum(), 0.0), 1e-9)


def test_a_weight_that_is_held_constant_is_returned_as_it_is() -> None:
    weight = np.array([[1.0, 2.0, 0.0, 3.0]])
    known = {"weight": weight, "denominator": np.asarray(1.0), "hold_constant": np.copy}
    assert weight_as_function(CISPO, LOGP, LOGP, np.array([1.0]), ONE, **known) is weight


# ---- the tokens that a loss needs


@at_most(50)
@given(batch=batches(edges=True))
def test_nothing_is_lost_without_the_other_tokens(batch: Batch) -> None:
    """Whatever log ratios are put where no token is active: value and weights stay what they were, bit by bit."""
    advantage = np.where(np.arange(len(batch.mask)) % 2 == 0, batch.advantage, 0.0)
    layout = Padded(batch.mask)
    active = active_tokens(GSPO, advantage, layout)
    assert not (active & ~batch.mask).any()
    other = np.where(active, batch.logp, batch.old_logp + 0.5)
    whole, part = (policy_loss(GSPO, logp, batch.old_logp, advantage, layout) for logp in (batch.logp, other))
    assert whole.value.tobytes() == part.value.tobytes()
    assert np.array_equal(whole.logp_grad, part.logp_grad)


@pytest.mark.parametrize("poison", [0.0, 5.0, np.nan])
def test_advantages_of_tokens_count_for_their_sequence_and_those_in_masked_slots_for_nothing(poison: float) -> None:
    values = np.where(MASK, 0.0, poison)
    values[3, 1] = -1.0
    expected = MASK & np.array([False, False, False, True])[:, None]
    assert np.array_equal(active_tokens(GSPO_TOKEN, values, Padded(MASK)), expected)
    packed = Packed(np.where(MASK, np.arange(4)[:, None], -1).reshape(-1), 4)
    assert np.array_equal(active_tokens(GSPO_TOKEN, PerToken(values.reshape(-1)), packed), expected.reshape(-1))


def test_an_advantage_of_one_turn_makes_its_sequence_active() -> None:
    layout = Turns(Padded(MASK), np.zeros(MASK.shape, dtype=np.int64), 2)
    values = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    objective = Objective(Turn(), GSPO.surrogate, SequenceMean())
    assert np.array_equal(active_tokens(objective, values, layout), MASK & (values != 0).any(axis=1)[:, None])


def test_a_rank_without_the_advantage_of_a_shared_sequence_is_active_too() -> None:
    """The other rank's part of sequence 0 has it."""
    layout = sharded(Padded(MASK), lambda sums: sums + np.array([1.0, 0.0, 0.0, 0.0], dtype=sums.dtype))
    found = active_tokens(GSPO_TOKEN, np.zeros(MASK.shape), layout)
    assert np.array_equal(found, MASK & np.array([True, False, False, False])[:, None])
