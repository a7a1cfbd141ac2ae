"""The factor that a loss is multiplied by before backward reaches the gradients before they are rounded."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import gspo_torch
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.lm_head.agreement import is_clear_of_kinks
from support.lm_head.cases import Problem, from_logits, make, problems, small_pieces
from support.lm_head.upstream import DTYPES, assert_scaled, factors, rounded
from torch import Tensor

BUDGETS = {"two-pass": 0, "aligned": 2**20, "mixed": 2500}


def linear(problem: Problem, bytes_: int) -> Tensor:
    """[] the value of the loss on hidden states."""
    return problem.loss(budget_bytes=bytes_).value


def composed(problem: Problem, _bytes: int) -> Tensor:
    """[] the same by way of log-probs."""
    head = {name: problem.options[name] for name in ("temperature", "soft_cap") if name in problem.options}
    rest = {name: problem.options[name] for name in ("denominator", "on_policy") if name in problem.options}
    arguments = (problem.hidden, problem.lm_head, problem.tokens)
    logp = gspo_torch.token_logp(*arguments, layout=problem.layout, bias=problem.bias, **head)
    batch = (problem.old_logp, problem.advantage, problem.layout)
    return gspo_torch.policy_loss(problem.objective, logp, *batch, **rest).value


def scaled(value: Tensor, problem: Problem, factor: float) -> dict[str, Tensor]:
    """Gradients of factor · value, by parameter."""
    leaves = problem.leaves()
    return dict(zip(leaves, torch.autograd.grad(value * factor, list(leaves.values())), strict=True))


@pytest.mark.slow
@settings(max_examples=100)
@given(data=st.data(), factor=factors(), scheme=st.sampled_from(sorted(BUDGETS)), cast=st.sampled_from([None, *DTYPES[:2]]))
def test_gradients_are_those_of_the_scaled_loss_whatever_the_factor(
    data: st.DataObject, factor: float, scheme: str, cast: torch.dtype | None
) -> None:
    """Every dtype of every parameter, scheme and budget, with and without autocast; a loss of any size."""
    dtype = data.draw(st.sampled_from(DTYPES))
    mixed = data.draw(st.booleans())
    problem = rounded(data.draw(problems()), *(data.draw(st.sampled_from(DTYPES)) if mixed else dtype for _ in range(3)))
    if data.draw(st.booleans()):
        problem = replace(problem, options={**problem.options, "denominator": 65536.0})
    assume(is_clear_of_kinks(problem))
    with small_pieces((3, 4)), torch.autocast("cpu", cast) if cast else nullcontext():
        gradients = scaled(linear(problem, BUDGETS[scheme]), problem, factor)
    assert_scaled(problem, factor, gradients, from_logits(problem))


@pytest.mark.slow
@settings(max_examples=30)
@given(problem=problems(terms=False), factor=factors(), dtype=st.sampled_from(DTYPES))
def test_so_are_those_by_way_of_log_probs(problem: Problem, factor: float, dtype: torch.dtype) -> None:
    problem = problem.to(dtype)
    assume(is_clear_of_kinks(problem))
    with small_pieces((3, 4)):
        gradients = scaled(composed(problem, 0), problem, factor)
    assert_scaled(problem, factor, gradients, from_logits(problem))


@pytest.mark.parametrize("bytes_", BUDGETS.values(), ids=BUDGETS)
def test_loss_scaling_saves_gradients_below_float16s_range(bytes_: int) -> None:
    """Of a denominator of 2²⁴ many are below 3e-8, which float16 rounds to 0; times 2²⁰ they are as good as float16 is."""
    problem = make(options={"denominator": 2.0**24}).to(torch.float16)
    truth = from_logits(problem).gradients["hidden"]
    plain, large = (scaled(linear(problem, bytes_), problem, factor)["hidden"] for factor in (1.0, 2.0**20))
    small = (truth.abs() > 1e-9) & (truth.abs() < 2e-8)
    assert small.any()
    assert not plain[small].any()
    torch.testing.assert_close(large[small].double() / 2.0**20, truth[small], rtol=1e-3, atol=1e-12)


def test_infinite_factors_spoil_their_own_loss_only() -> None:
    """A skipped step of GradScaler: the same loss computed again has its gradients."""
    problem = make().to(torch.float16)
    spoilt = scaled(linear(problem, 2**20), problem, float("inf"))
    assert not any(bool(g[problem.layout.valid if name == "hidden" else ...].isfinite().all()) for name, g in spoilt.items())
    assert_scaled(problem, 1.0, scaled(linear(problem, 2**20), problem, 1.0), from_logits(problem))
