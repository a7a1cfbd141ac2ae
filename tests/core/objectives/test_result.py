"""A loss prints as its value and its share clipped where its numbers can be read; a LinearLoss is a Loss with more fields."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gspo_core import GRPO, GSPO, Loss, Objective, Packed, Padded, Turns, policy_loss
from gspo_core.objectives import LinearLoss, SequenceMean, Turn

MASK = np.array([[True, True, True], [True, True, False], [False, False, False], [True, False, False]])
ADVANTAGE = np.array([1.0, -1.0, 1.0, 0.0])
RISE = np.array([1.0, 0.0, 0.0, 0.0])
"""Of each sequence's log-probs: the first rises beyond every clip range, with a positive advantage."""


def loss_of(objective: Objective, rise: np.ndarray = RISE) -> Loss:
    """Of four sequences, one empty and one without an advantage."""
    logp = np.broadcast_to(rise[:, None], MASK.shape) - 1.0
    return policy_loss(objective, logp, np.full(MASK.shape, -1.0), ADVANTAGE, Padded(MASK))


def linear(loss: Loss) -> LinearLoss:
    """With log-probs, as linear_policy_loss returns it."""
    return LinearLoss(*loss, logp=loss.logp_grad)


def test_a_loss_prints_its_value_and_the_share_of_clipped_sequences() -> None:
    loss = loss_of(GSPO)
    assert repr(loss) == f"Loss(value={float(loss.value):.6g}, clipped=25.0% of 4 sequences)"
    assert float(loss.value) != 0.0
    assert repr(loss_of(GSPO, -RISE)).endswith("clipped=0.0% of 4 sequences)")


def test_the_share_of_clipped_tokens_is_of_those_with_an_advantage() -> None:
    """Three of the first sequence's and two of the second's; the third has none, and the fourth no advantage."""
    assert repr(loss_of(GRPO)).endswith("clipped=60.0% of 5 tokens with an advantage)")


def test_turns_are_counted_as_turns() -> None:
    layout = Turns(Padded(MASK), np.zeros(MASK.shape, dtype=np.int64), 2)
    zeros = np.zeros(MASK.shape)
    loss = policy_loss(Objective(Turn(), GSPO.surrogate, SequenceMean()), zeros, zeros, ADVANTAGE, layout)
    assert repr(loss).endswith("clipped=0.0% of 8 turns)")


@pytest.mark.parametrize("layout", [Padded(np.zeros((0, 3), dtype=bool)), Packed(np.zeros(0, dtype=np.int64), 0)])
@pytest.mark.parametrize("objective", [GSPO, GRPO])
def test_an_empty_batch_prints(layout: Any, objective: Objective) -> None:
    empty = np.zeros(layout.shape)
    assert "value=0, clipped=0.0% of 0 " in repr(policy_loss(objective, empty, empty, np.zeros(0), layout))


def printed(transform: Callable[[Callable[[Any], Any]], Callable[[Any], Any]], xp: Any) -> list[str]:
    """What a loss prints while a transformation traces it."""
    seen = []

    def step(logp: Any) -> Any:
        loss = policy_loss(GSPO, logp, xp.zeros((2, 3)), xp.ones(2), Padded(xp.ones((2, 3), dtype=bool)))
        seen.extend([repr(loss), repr(linear(loss))])
        return loss.value

    transform(step)(xp.zeros((2, 3)))
    return seen


def test_a_traced_loss_prints_dtypes_and_shapes() -> None:
    jax = pytest.importorskip("jax")
    expected = ["Loss(value=float32[], clipped=bool[2])", "LinearLoss(value=float32[], clipped=bool[2])"]
    assert printed(jax.jit, jax.numpy) == expected
    assert printed(lambda step: lambda x: jax.vmap(step)(x[None]), jax.numpy) == expected


def test_a_loss_under_torch_func_and_with_fake_tensors_prints_dtypes_and_shapes() -> None:
    expected = "Loss(value=torch.float32[], clipped=torch.bool[2])"
    assert printed(lambda step: lambda x: torch.func.vmap(step)(x[None]), torch)[0] == expected
    with FakeTensorMode():
        assert printed(lambda step: step, torch)[0] == expected


def test_what_holds_no_arrays_prints_too() -> None:
    """JAX rebuilds a tuple around placeholders, and vmap adds an axis."""
    jax = pytest.importorskip("jax")
    loss = loss_of(GSPO)
    assert repr(jax.tree.map(lambda _: "x", loss)) == "Loss(value='x', clipped='x')"
    assert repr(jax.tree.map(lambda x: np.stack([x, x]), loss)) == "Loss(value=float64[2], clipped=bool[2, 4])"


def test_a_linear_loss_is_a_loss_with_the_same_first_fields() -> None:
    loss = loss_of(GSPO)
    more = linear(loss)
    assert isinstance(more, Loss)
    assert LinearLoss._fields == (*Loss._fields, "logp", "entropy", "kl", "policy")
    assert all(getattr(more, name) is getattr(loss, name) for name in Loss._fields)
    assert (more.logp is loss.logp_grad, more.entropy, more.kl, more.policy) == (True, None, None, None)
    assert repr(more) == "Linear" + repr(loss)


def test_a_linear_loss_is_replaced_and_copied_as_one() -> None:
    more = linear(loss_of(GSPO))
    for other in (more._replace(kl=0.5), pickle.loads(pickle.dumps(more)), copy.deepcopy(more)):
        assert type(other) is LinearLoss
        assert np.array_equal(other.logp, more.logp)
    assert more._replace(kl=0.5).kl == 0.5


def test_a_linear_loss_is_a_pytree_in_jax_and_in_torch() -> None:
    jax = pytest.importorskip("jax")
    more = linear(loss_of(GSPO))._replace(policy=loss_of(GRPO))
    for tree in (jax.tree.map(lambda x: x, more), torch.utils._pytree.tree_map(lambda x: x, more)):
        assert (type(tree), type(tree.policy)) == (LinearLoss, Loss)
    assert len(jax.tree.leaves(more)) == len(Loss._fields) * 2 + 1
