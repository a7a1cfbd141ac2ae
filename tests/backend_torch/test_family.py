"""Every preset in gspo_torch: the gradient is the weight, the second derivative that of the weight, compiled or not."""

from __future__ import annotations

import gspo_torch
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from support.budgets import REL64, assert_within
from support.cases import Batch, batches, core_loss
from support.family import PRESETS, Member, by_member, largest
from support.inputs.one_shape import EXAMPLES
from support.libraries import NUMPY

from gspo_core import Padded


@by_member
@given(batch=batches(edges=False, max_tokens=5))
def test_the_gradient_in_torch_is_the_weight(member: Member, batch: Batch) -> None:
    advantage = member.advantage(batch, member.per_token)
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


@pytest.mark.slow
# What torch says about itself while tracing; test_torch_compile has the reasons.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.* should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", ["GMPO", "DEEPSEEK_V3_2", "VESPO"])
def test_a_compiled_gradient_is_the_eager_one(name: str) -> None:
    """One preset with each kind of gate, one without a clip; compiling takes seconds, and the weights of all are compiled in
    core/objectives/family/test_matches_the_papers.py."""
    batch = EXAMPLES["holes"].clean()
    logp, old, advantage, mask = (torch.tensor(x) for x in (batch.logp, batch.old_logp, batch.advantage, batch.mask))

    def value(x: torch.Tensor) -> torch.Tensor:
        return gspo_torch.policy_loss(PRESETS[name], x, old, advantage, Padded(mask)).value

    torch._dynamo.reset()
    gradients = []
    for f in (value, torch.compile(value, fullgraph=True, backend="eager")):
        x = logp.clone().requires_grad_()
        gradients.append(torch.autograd.grad(f(x), x)[0].numpy())
    assert_within(gradients[1], gradients[0], REL64 * np.abs(gradients[0]))
    assert (gradients[0] != 0).any()
