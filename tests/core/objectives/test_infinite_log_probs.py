"""A token with π = 0 or π_old = 0 is an ordinary token: numbers are finite where mathematics is, and rows do not mix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.family import Member, by_member
from torch import Tensor

from gspo_core import Loss, Packed, Padded, policy_loss
from gspo_core.backend import weight_as_function
from gspo_core.layouts import Layout
from gspo_core.objectives import GammaWeight, GateOnly, SoftGate

MASK = torch.arange(5)[None, :] < torch.tensor([3, 5, 2, 1])[:, None]
ROW = MASK & (torch.arange(4)[:, None] == 1)
IDS = torch.where(MASK, torch.arange(4)[:, None], -1)
LAYOUTS: dict[str, Layout] = {"padded": Padded(MASK), "packed": Packed(IDS.reshape(-1), 4)}


def loss_at(member: Member, logp: Tensor, old: Tensor, advantage: Tensor, layout: Layout) -> Loss:
    """The loss of [4, 5] arrays in a layout; PyTorch, where an infinite number raises no warning."""
    return policy_loss(member.objective, logp.reshape(layout.shape), old.reshape(layout.shape), advantage, layout)


def batch(seed: int) -> tuple[Tensor, Tensor]:
    """(logp, old_logp), log ratios of order 0.1."""
    rng = np.random.default_rng(seed)
    old = torch.from_numpy(rng.normal(size=(4, 5)) - 2.0)
    return old + 0.1 * torch.from_numpy(rng.normal(size=(4, 5))), old


ANY = st.sampled_from([0.0, 1.0, -1.0, 1e-30, -1e30])
WRONG = st.sampled_from([-math.inf, math.inf, math.nan, torch.finfo(torch.float32).min])
SETTINGS = settings(max_examples=12)


@by_member
@pytest.mark.parametrize("name", LAYOUTS)
@SETTINGS
@given(seed=st.integers(0, 99), advantage=ANY, wrong=WRONG, old_too=st.booleans())
def test_a_row_that_is_not_finite_changes_no_other(
    name: str, member: Member, seed: int, advantage: float, wrong: float, old_too: bool
) -> None:
    logp, old = batch(seed)
    a = torch.tensor([1.0, advantage, -1.0, 0.5]).double()
    before = loss_at(member, logp, old, a, LAYOUTS[name])
    (old if old_too else logp)[1, 2] = wrong
    after = loss_at(member, logp, old, a, LAYOUTS[name])
    others = (MASK & ~ROW).reshape(LAYOUTS[name].shape)
    assert torch.equal(after.logp_grad[others], before.logp_grad[others])
    units = others if member.per_token else torch.tensor([True, False, True, True])
    assert torch.equal(after.log_ratio[units], before.log_ratio[units])
    assert torch.equal(after.clipped[units], before.clipped[units])


@by_member
@SETTINGS
@given(seed=st.integers(0, 99), sign=st.sampled_from([-1.0, 1.0]), name=st.sampled_from(sorted(LAYOUTS)))
def test_a_ratio_of_zero_is_the_limit_of_small_ratios(member: Member, seed: int, sign: float, name: str) -> None:
    """π = 0 is π = e^−10⁷, in value, gradient and clipping, and in the weight that second derivatives start from."""
    logp, old = batch(seed)
    a = torch.tensor([1.0, sign, -1.0, 0.5]).double()
    found = []
    for at in (-math.inf, -1e7):
        logp[1, 2] = at
        layout, loss = LAYOUTS[name], loss_at(member, logp, old, a, LAYOUTS[name])
        now = {"weight": loss.logp_grad, "denominator": loss.denominator, "hold_constant": Tensor.detach}
        arrays = (logp.reshape(layout.shape), old.reshape(layout.shape), a, layout)
        found.append((loss, weight_as_function(member.objective, *arrays, **now)))
    (gone, again), (small, _) = found
    linear = isinstance(member.objective.surrogate, GateOnly) and sign > 0  # whose gain falls with log s, without end
    assert gone.value == (math.inf if linear else small.value)
    assert torch.equal(gone.logp_grad, small.logp_grad)
    assert torch.equal(again, gone.logp_grad)
    assert torch.equal(gone.clipped, small.clipped)


@by_member
@SETTINGS
@given(seed=st.integers(0, 99), at=st.sampled_from([-math.inf, math.inf, 3e38, -3e38]), old_too=st.booleans())
def test_without_an_advantage_no_ratio_matters(member: Member, seed: int, at: float, old_too: bool) -> None:
    logp, old = batch(seed)
    a = torch.tensor([1.0, 0.0, -1.0, 0.5]).double()
    for dtype in (torch.float32, torch.float64):
        before = loss_at(member, logp.to(dtype), old.to(dtype), a, LAYOUTS["padded"])
        moved, olds = logp.clone(), old.clone()
        (olds if old_too else moved)[1, 2] = at
        after = loss_at(member, moved.to(dtype), olds.to(dtype), a, LAYOUTS["padded"])
        assert after.value == before.value
        assert torch.equal(after.logp_grad, before.logp_grad)


@pytest.mark.parametrize("advantage", [1e38, -1e38])
def test_large_advantages_fit_where_their_gain_does(advantage: float) -> None:
    """SAPO: A (4/τ) σ(…) is of the order of A, and 4 A is beyond float32."""
    at = np.array([-0.1, 0.0, 0.1], dtype=np.float32)
    wide = SoftGate()(np, at.astype(np.float64), np.full(3, advantage))
    found = SoftGate()(np, at, np.full(3, advantage, dtype=np.float32))
    np.testing.assert_allclose(found.value, wide.value, rtol=1e-6)
    np.testing.assert_allclose(found.slope, wide.slope, rtol=1e-6)


def test_a_weight_that_falls_to_0_is_0_at_any_large_ratio() -> None:
    """VESPO: ρ^k falls behind exp(−λρ), also where log ρ is not a number that a policy can produce."""
    at = np.array([20.0, 1e3, 1e25, 3e38, math.inf])
    for advantage in (-1.0, 1.0):
        assert not np.any(GammaWeight()(np, at, np.full(5, advantage)).value)
