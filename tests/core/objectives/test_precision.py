"""A contract at the door, not a law: log-probs below float32 are refused unless asked for; every other input is upcast."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.budgets import assert_same_bits
from support.cases import Case
from support.libraries import NUMPY

from gspo_core import Loss, Padded, group_advantages, policy_loss

LOW = [torch.bfloat16, torch.float16]
MASK = torch.tensor([[True, True, False], [True, True, True]])
LOGP = torch.tensor([[-1.0, -2.0, 0.0], [-0.5, -1.5, -0.25]])
ADVANTAGE = torch.tensor([1.0, -1.0])


def loss_of(case: Case, logp: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor = ADVANTAGE, low: bool = False) -> Loss:
    """The core's loss in torch."""
    return policy_loss(case.preset, logp, old, advantage, Padded(MASK), allow_low_precision=low)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", ["logp", "old_logp"])
def test_low_precision_log_probs_are_refused_by_name(case: Case, dtype: torch.dtype, name: str) -> None:
    arrays = {"logp": LOGP, "old_logp": LOGP}
    arrays[name] = arrays[name].to(dtype)
    with pytest.raises(TypeError, match=rf"^{name}: expected float32 or float64, got .*float16.*allow_low_precision=True"):
        loss_of(case, arrays["logp"], arrays["old_logp"])


def test_numpy_half_precision_is_refused_too(case: Case) -> None:
    logp = LOGP.numpy()
    with pytest.raises(TypeError, match=r"^logp: expected float32 or float64, got float16"):
        policy_loss(case.preset, logp.astype(np.float16), logp, ADVANTAGE.numpy(), Padded(MASK.numpy()))


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_low_precision_is_upcast_where_accepted(case: Case, dtype: torch.dtype) -> None:
    logp, old = LOGP.to(dtype), (LOGP + 0.3).to(dtype)
    accepted, upcast = loss_of(case, logp, old, low=True), loss_of(case, logp.float(), old.float())
    for a, b in zip(accepted[:-1], upcast[:-1], strict=True):
        assert_same_bits(a.numpy(), b.numpy())
    assert accepted.logp_grad.dtype == torch.float32


def test_bfloat16_cannot_see_the_papers_clip_range() -> None:
    """The reason: 1 + 4e-4 and 1 are one number in bfloat16."""
    assert torch.tensor(1.0 + 4e-4).bfloat16() == torch.tensor(1.0).bfloat16()


@pytest.mark.parametrize("dtype", [*LOW, torch.int8, torch.int32, torch.int64, torch.uint8, torch.float64], ids=str)
def test_advantages_of_any_real_dtype_are_cast_to_the_loss(case: Case, dtype: torch.dtype) -> None:
    advantage = torch.tensor([1, 2])
    expected = loss_of(case, LOGP, LOGP - 0.1, advantage.float())
    loss = loss_of(case, LOGP, LOGP - 0.1, advantage.to(dtype))
    for a, b in zip(loss[:-1], expected[:-1], strict=True):
        assert_same_bits(a.numpy(), b.numpy())


@pytest.mark.parametrize("wide", ["logp", "old_logp"])
def test_one_float64_log_prob_makes_the_loss_float64(case: Case, wide: str) -> None:
    arrays = {"logp": LOGP, "old_logp": LOGP}
    arrays[wide] = arrays[wide].double()
    loss = loss_of(case, arrays["logp"], arrays["old_logp"])
    assert {x.dtype for x in (loss.value, loss.logp_grad, loss.log_ratio, loss.denominator)} == {torch.float64}


def test_advantages_of_low_precision_rewards_are_float32() -> None:
    ids = torch.tensor([0, 0, 1])
    for dtype in (*LOW, torch.float32, torch.int64):
        assert group_advantages(torch.tensor([1, 0, 1]).to(dtype), ids).dtype == torch.float32
    assert group_advantages(torch.tensor([1.0, 0.0, 1.0]).double(), ids).dtype == torch.float64


def test_numpy_inputs_are_left_as_they_were(case: Case) -> None:
    arrays = [NUMPY.array(x.numpy()) for x in (LOGP, LOGP - 1, ADVANTAGE, MASK)]
    before = [x.copy() for x in arrays]
    policy_loss(case.preset, *arrays[:3], Padded(arrays[3]))
    for a, b in zip(arrays, before, strict=True):
        assert_same_bits(a, b)
