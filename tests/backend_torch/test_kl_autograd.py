"""gspo_torch.kl_penalty: the derivative of its value is the weight, at first and second order, whatever else has a graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gspo_torch
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from support.budgets import assert_within
from support.cases import Batch, batches
from support.inputs.kl_cases import by_estimator, largest_units, policies, with_and_without_a_cap
from torch import Tensor

from gspo_core import Padded, SequenceMean, kl_penalty
from gspo_core.kl import Capped, KLPenalty


def by_hand(estimator: Any, logp: Tensor, ref: Tensor, old: Tensor, mask: Tensor, cap: float = math.inf) -> Tensor:
    """The mean over sequences of what the estimators' docstrings say, for autograd to differentiate."""
    x, d = (torch.where(mask, a - b, 0.0) for a, b in ((ref, logp), (logp, old)))
    if not estimator.per_token:
        x, d = x.sum(1), d.sum(1)
    x, d = x.clamp(-cap, cap), d + x - x.clamp(-cap, cap)
    k3 = torch.exp(x) - 1.0 - x
    formula = {"K1": -x, "K2": x * x / 2, "K3": k3, "TokenKL": torch.exp(d) * k3, "SequenceKL": torch.exp(d) * k3}
    formula |= {"SequenceK2": x * x / 2, "KAbs": x.abs()}
    terms, lengths = formula[type(estimator).__name__], mask.sum(1).double()
    share = torch.where(lengths > 0, 1.0 / (lengths > 0).sum().clamp(min=1).double(), 0.0)
    if estimator.per_token:
        terms = torch.where(mask, terms, 0.0).sum(1) / lengths.clamp(min=1.0)
    return (terms * share).sum()


def given_to(estimator: Any, function: Callable[..., KLPenalty], p: Any, logp: Tensor, **more: Any) -> KLPenalty:
    """The penalty at `logp`, a tensor that may have a graph."""
    ref, old, mask = (torch.tensor(x) for x in (p.ref, p.old, p.mask))
    options = {"reduction": SequenceMean(), "old_logp": old if estimator.off_policy else None}
    return function(estimator, logp, more.get("ref", ref), Padded(mask), **{**options, **more.get("options", {})})


@by_estimator
@given(batch=batches(edges=False), seed=st.integers(0, 2**16), cap=st.sampled_from([None, 0.03, 1.0]))
def test_both_derivatives_are_those_of_the_formula(estimator: Any, batch: Batch, seed: int, cap: float | None) -> None:
    """With NaN in masked slots, float64, log ratios small enough for the formula as it is written; a cap is a clamp."""
    p = policies(batch, seed)
    assume(largest_units(p) < 20.0)
    direction = torch.tensor(np.random.default_rng(seed).normal(size=p.mask.shape))
    found: list[tuple[Tensor, Tensor]] = []
    for hand in (False, True):
        logp = torch.tensor(p.logp, requires_grad=True)
        arrays = [torch.tensor(x) for x in (p.ref, p.old, p.mask)]
        capped = estimator if cap is None else Capped(estimator, cap)
        theirs = by_hand(estimator, logp, *arrays, math.inf if cap is None else cap)
        value = theirs if hand else given_to(capped, gspo_torch.kl_penalty, p, logp).value
        (first,) = torch.autograd.grad(value, logp, create_graph=True)
        second = torch.autograd.grad((first * direction).sum(), logp)[0] if first.requires_grad else torch.zeros_like(logp)
        found.append((first.detach(), second))
    # k3 and its derivative cancel to -x, and each is as large as e^D (1 + |X| + e^X).
    budget = 1e-12 * math.exp(largest_units(p)) * (1 + largest_units(p))
    for ours, theirs in zip(*found, strict=True):
        assert_within(ours.numpy(), np.where(p.mask, theirs.numpy(), 0.0), budget)


@with_and_without_a_cap
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@given(seed=st.integers(0, 2**16), size=st.sampled_from([1e-3, 1.0, 30.0, 1e3]), width=st.sampled_from([1, 7, 300]))
def test_the_derivative_of_the_value_is_the_weight_at_any_size(
    estimator: Any, dtype: torch.dtype, seed: int, size: float, width: int
) -> None:
    """Bit for bit, finite, and for any upstream factor that is a power of two; value and weight are the core's."""
    draws = torch.Generator().manual_seed(seed)
    logp, ref, old = (size * torch.randn(2, width, generator=draws, dtype=dtype) for _ in range(3))
    layout = Padded(torch.rand(2, width, generator=draws) < 0.8)
    options = {"reduction": SequenceMean(), "old_logp": old if estimator.off_policy else None}
    logp.requires_grad_()
    found = gspo_torch.kl_penalty(estimator, logp, ref, layout, **options)
    core = kl_penalty(estimator, logp, ref, layout, **options)
    (4.0 * found.value).backward()
    assert logp.grad is not None
    assert torch.equal(logp.grad, 4.0 * core.logp_grad)
    assert torch.equal(found.value, core.value)
    assert torch.equal(found.logp_grad, core.logp_grad)
    assert (found.capped is None) == (core.capped is None)
    assert found.capped is None or torch.equal(found.capped, core.capped)


@by_estimator
@given(batch=batches(edges=False), seed=st.integers(0, 2**16))
def test_what_is_constant_by_definition_is_held_constant(estimator: Any, batch: Batch, seed: int) -> None:
    """The old and the reference log-probs and the denominator may be computed from logp itself."""
    p = policies(batch, seed)
    plain = torch.tensor(p.logp, requires_grad=True)
    constants: dict[str, Any] = {"denominator": torch.tensor(3.0, dtype=torch.float64)}
    constants |= {"old_logp": plain.detach()} if estimator.off_policy else {}
    given_to(estimator, gspo_torch.kl_penalty, p, plain, options=constants).value.backward()
    logp = torch.tensor(p.logp, requires_grad=True)
    ref = torch.where(torch.tensor(p.mask), torch.tensor(p.ref) + 0.0 * logp, 0.0)
    graph = {"denominator": 3.0 + 0.0 * logp.nan_to_num().sum()} | ({"old_logp": logp} if estimator.off_policy else {})
    found = given_to(estimator, gspo_torch.kl_penalty, p, logp, ref=ref, options=graph)
    found.value.backward()
    assert plain.grad is not None
    assert logp.grad is not None
    assert torch.equal(plain.grad, logp.grad)
    assert torch.equal(logp.grad, found.logp_grad)
