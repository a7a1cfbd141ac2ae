"""PyTorch's autograd through the value of a KL term finds its weight, if what is not the policy is constant."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from support.budgets import assert_within
from support.cases import Batch, batches
from support.kl_cases import by_estimator, largest_units, policies

from gspo_core import Padded, SequenceMean, TokenKL, kl_penalty
from gspo_core.kl import K1


@by_estimator
@given(batch=batches(edges=False), seed=st.integers(0, 2**16))
def test_autograd_through_the_value_finds_the_weight(estimator: Any, batch: Batch, seed: int) -> None:
    """PyTorch, with NaN in masked slots; also at second order, where the weight is differentiated once."""
    p = policies(batch, seed)
    assume(largest_units(p) < 20.0)
    logp, ref, old = (torch.tensor(x) for x in (p.logp, p.ref, p.old))
    logp.requires_grad_()
    given_old = old if estimator.off_policy else None
    out = kl_penalty(estimator, logp, ref, Padded(torch.tensor(p.mask)), reduction=SequenceMean(), old_logp=given_old)
    (first,) = torch.autograd.grad(out.value, logp, create_graph=True)
    weight = out.logp_grad.detach().numpy()
    # k3 and its derivative cancel to -x, and each is as large as e^D (1 + |X| + e^X).
    budget = 1e-13 * math.exp(largest_units(p)) * (1 + largest_units(p))
    assert_within(first.detach().numpy(), weight, budget)
    if estimator != K1():
        direction = torch.tensor(np.random.default_rng(seed).normal(size=p.mask.shape))
        second, once = (torch.autograd.grad((g * direction).sum(), logp, retain_graph=True)[0] for g in (first, out.logp_grad))
        assert_within(second.numpy(), once.numpy(), 100 * budget)


def test_without_a_constant_old_policy_autograd_sees_no_ratio() -> None:
    """What the docstring warns of: on policy, TokenKL's value alone is k3's."""
    logp = torch.tensor([[-1.0]], requires_grad=True)
    for old, expected in ((logp.detach(), -1.0), (logp, 1.0 - math.e)):
        out = kl_penalty(
            TokenKL(), logp, torch.zeros(1, 1), Padded(torch.tensor([[True]])), reduction=SequenceMean(), old_logp=old
        )
        assert out.logp_grad.tolist() == [[-1.0]]
        assert float(torch.autograd.grad(out.value, logp)[0]) == pytest.approx(expected)
