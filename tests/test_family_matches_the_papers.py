"""Value, weight, log ratio and silence of every preset are its paper's, on every library, for any ragged batch."""

from __future__ import annotations

import math
from dataclasses import replace

import gspo_torch
import numpy as np
import pytest
import torch
from budgets import REL64, assert_close64, assert_within, float32_budget
from cases import Batch, batches, core_loss
from family import MEMBERS, Member, by_member, largest
from hypothesis import assume, given
from libraries import NUMPY, Library

from gspo_core import Padded

BEYOND_THE_GUARD = 49.0
"""From log ρ = 50 on the core continues exp along its tangent; test_finite_numbers says what holds there."""


def budget(batch: Batch) -> float:
    """exp of a log ratio that is off by eps · largest is off by that, relatively; φ and sech² lose up to 60 times more."""
    return 100 * REL64 * (1.0 + largest(batch))


KINDS = [(member, per_token) for member in MEMBERS for per_token in {False, member.method.per_token}]


@pytest.mark.parametrize(("member", "per_token"), KINDS, ids=[f"{m.name}-{'token' if p else 'sequence'}" for m, p in KINDS])
@given(batch=batches(edges=False, max_tokens=5))
def test_value_weight_ratio_and_silence(library: Library, member: Member, per_token: bool, batch: Batch) -> None:
    advantage = member.advantage(batch, per_token)
    assume(largest(batch) < BEYOND_THE_GUARD)
    assume(member.is_clear_of_kinks(batch, advantage, 1e-9))
    loss, verdict = core_loss(library, member.objective, batch, advantage), member.judged(batch, advantage)
    assert loss.value.dtype == np.float64
    weight = np.asarray(verdict.weight)
    # 1e-290: φ and sech² pass through the denormal numbers on their way to 0, where digits are lost.
    assert_within(loss.value, verdict.value, budget(batch) * verdict.scale + 1e-290)
    assert_within(loss.logp_grad, weight, budget(batch) * np.abs(weight) + 1e-290)
    assert_within(loss.log_ratio, verdict.log_ratio, REL64 * (1 + largest(batch)))
    units = np.abs(weight if member.method.per_token else weight.sum(axis=1))
    settled = (units == 0) | (units > 1e-290)
    assert (loss.clipped == np.asarray(verdict.clipped, dtype=bool))[settled].all()


@by_member
@given(batch=batches(edges=False, max_tokens=5))
def test_float32_stays_within_its_budget(library: Library, member: Member, batch: Batch) -> None:
    batch = batch.rounded(np.float32)
    assume(largest(batch) < 4.0)  # beyond, φ and sech² magnify the argument's rounding by ρ
    eps = float(np.finfo(np.float32).eps)
    assume(member.is_clear_of_kinks(batch, batch.advantage, 8 * eps * (1 + largest(batch))))
    loss, verdict = core_loss(library, member.objective, batch, dtype=np.float32), member.judged(batch, batch.advantage)
    allowed = float32_budget(batch.mask.size, largest(batch)) * 4 * np.exp(largest(batch))
    assert loss.value.dtype == loss.logp_grad.dtype == np.float32
    assert_within(loss.value, verdict.value, allowed * verdict.scale + 1e-35)
    assert_within(loss.logp_grad, verdict.weight, allowed * np.abs(verdict.weight) + 1e-35)


@by_member
@given(batch=batches(edges=False, max_tokens=5))
def test_the_gradient_in_torch_is_the_weight(member: Member, batch: Batch) -> None:
    advantage = member.advantage(batch, member.method.per_token)
    logp = torch.tensor(batch.logp, requires_grad=True)
    old, adv, mask = (torch.tensor(x) for x in (batch.old_logp, advantage, batch.mask))
    loss = gspo_torch.policy_loss(member.objective, logp, old, adv, Padded(mask))
    (gradient,) = torch.autograd.grad(loss.value, logp)
    expected = core_loss(NUMPY, member.objective, batch, advantage)
    assert_within(gradient.numpy(), expected.logp_grad, 1e-11 * (1 + largest(batch)) * np.abs(expected.logp_grad) + 1e-290)


@by_member
@given(batch=batches(edges=False, max_tokens=4))
def test_second_derivatives_in_torch_are_those_of_the_weight(member: Member, batch: Batch) -> None:
    """Σ_j v_j ∂w_j/∂logp by double backward, against differences of the oracle's weight; 0 for a weight held constant."""
    advantage = batch.advantage
    assume(batch.mask.any())
    assume(largest(batch) < 3.0)
    assume(member.is_clear_of_kinks(batch, advantage, 4e-5))
    direction = np.where(batch.mask, np.random.default_rng(0).normal(size=batch.mask.shape), 0.0)
    logp = torch.tensor(batch.logp, requires_grad=True)
    old, adv, mask = (torch.tensor(x) for x in (batch.old_logp, advantage, batch.mask))
    value = gspo_torch.policy_loss(member.objective, logp, old, adv, Padded(mask)).value
    (gradient,) = torch.autograd.grad(value, logp, create_graph=True)
    second = torch.zeros_like(logp)
    if gradient.requires_grad:
        found = torch.autograd.grad((gradient * torch.tensor(direction)).sum(), logp, allow_unused=True)[0]
        second = second if found is None else found
    if not member.objective.surrogate.exact:
        assert not second[mask].any()
        return
    if not member.exact:
        return  # GSPO-token: test_torch_double_backward
    step = 2.0**-16
    up, down = (
        np.asarray(member.judged(batch, advantage, batch.logp + s * np.where(batch.mask, step, 0.0) * direction).weight)
        for s in (1, -1)
    )
    # The Hessian is symmetric: a directional difference of the weight is the same product.
    scale = np.abs(core_loss(NUMPY, member.objective, batch).logp_grad).sum() * np.abs(direction).sum()
    assert_within(
        np.where(batch.mask, second.numpy(), 0.0), (up - down) / (2 * step), 1e-6 * scale * np.exp(3 * largest(batch))
    )


def test_the_draws_silence_and_spare_units_of_every_member() -> None:
    """Guard: on one batch of many scales every hard gate closes somewhere and stays open elsewhere."""
    batch = spread()
    for member in MEMBERS:
        loss = core_loss(NUMPY, member.objective, batch)
        assert (loss.logp_grad != 0).any(), member.name
        hard = member.name not in ("SAPO", "CISPO", "VESPO")
        assert loss.clipped.any() == hard, member.name


def test_the_judge_tells_every_member_from_every_other() -> None:
    """Guard: one batch has another weight under each method; GSPO and GSPO-token must agree under equal advantages."""
    batch = spread()
    weights = {member.name: np.asarray(member.judged(batch, batch.advantage).weight) for member in MEMBERS}
    names = sorted(weights)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            same = (one, other) == ("GSPO", "GSPO_TOKEN")
            assert (np.abs(weights[one] - weights[other]).max() <= 1e-6) == same, (one, other)


def spread() -> Batch:
    """Sixteen responses of four tokens, log ratios of 1e-4 to 2, both signs of advantage."""
    rng = np.random.default_rng(0)
    d = np.repeat(10.0 ** np.linspace(-4, 0.3, 8), 2)[:, None] * rng.uniform(0.5, 1.0, size=(16, 4))
    d = d * rng.choice([-1.0, 1.0], size=(16, 1))
    # Between GRPO's bound and DAPO's for A > 0; above DualClip's cap for A < 0; a stale bad response with a live token.
    d[12, 0], d[13, 0], d[14] = math.log(1.24), math.log(4.0), [0.5, -2.0, -2.0, -2.0]
    advantage = np.tile([1.0, -1.0, -0.5, 0.5], 4)
    mask = np.arange(4) < np.append(rng.integers(1, 5, size=14), [4, 4])[:, None]
    return Batch(d - 3.0, np.full((16, 4), -3.0), mask, advantage, np.repeat(advantage[:, None], 4, 1), 0.2, 0.2)


@by_member
def test_an_empty_batch_and_empty_rows_are_worth_nothing(library: Library, member: Member) -> None:
    batch = replace(spread(), mask=np.zeros((16, 4), dtype=bool))
    loss = core_loss(library, member.objective, batch)
    assert_close64(loss.value, 0.0, 0.0)
    assert not loss.logp_grad.any()
    assert not loss.clipped.any()
