"""A token whose logit is −∞, as those of vocabulary padding are, is a token that is not there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gspo_torch
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.lm_head.agreement import assert_in_budget, is_clear_of_kinks
from support.lm_head.cases import Answer, Problem, from_logits, problems, small_pieces
from torch import Tensor

LOW = (-torch.inf, torch.finfo(torch.float32).min, -1e30)


def without(problem: Problem, kept: Tensor) -> Problem:
    """The problem with a vocabulary of these tokens alone."""
    places = torch.cumsum(kept, 0) - 1
    inside = (problem.tokens >= 0) & (problem.tokens < len(kept))
    tokens = torch.where(inside, places[torch.where(inside, problem.tokens, 0)], problem.tokens)
    head, bias = (x.detach()[kept].requires_grad_() for x in (problem.lm_head, problem.bias))  # type: ignore[union-attr]  # the problem has a bias
    return replace(problem, lm_head=head, bias=bias, tokens=tokens)


@st.composite
def with_excluded(draw: st.DrawFn) -> tuple[Problem, Problem]:
    """(a loss, some of whose tokens are excluded by their bias, the same without them)."""
    problem = draw(problems())
    assume(problem.bias is not None and problem.bias.numel() > 1)
    assert problem.bias is not None
    problem = replace(problem, options={**problem.options, "soft_cap": None}).to(torch.float32)
    flags = draw(st.lists(st.booleans(), min_size=len(problem.lm_head), max_size=len(problem.lm_head)))
    kept = torch.tensor(flags)
    kept[torch.where(problem.layout.valid, problem.tokens, 0)] = True
    assert problem.bias is not None
    bias = torch.where(kept, problem.bias.detach(), draw(st.sampled_from(LOW))).requires_grad_()
    whole, smaller = replace(problem, bias=bias), without(problem, kept)
    assume(is_clear_of_kinks(smaller))
    return whole, smaller


@pytest.mark.slow
@settings(max_examples=60)
@given(pair=with_excluded(), bytes_=st.sampled_from([0, 2**20]), factor=st.sampled_from([1.0, 1e8, 1e-8]))
def test_an_excluded_token_is_not_there(pair: tuple[Problem, Problem], bytes_: int, factor: float) -> None:
    """Value, log-probs, entropy bonus, KL and gradients are those of the smaller vocabulary; its own gradients are 0."""
    problem, smaller = pair
    kept = problem.bias > -1e20  # type: ignore[operator]  # the problem has a bias
    leaves = problem.leaves()
    with small_pieces((3, 4)):
        loss = problem.loss(budget_bytes=bytes_, return_logp=True)
        found = torch.autograd.grad(loss.value * factor, list(leaves.values()))
    gradients = {name: g / factor for name, g in zip(leaves, found, strict=True)}
    assert not any(gradients[name][~kept].any() for name in ("lm_head", "bias"))
    mine = {name: g if name == "hidden" else g[kept] for name, g in gradients.items()}
    assert_in_budget(smaller, Answer(loss.value.detach(), loss.logp, loss.logp_grad, mine), from_logits(smaller))


@pytest.mark.parametrize("low", LOW)
def test_its_entropy_is_that_of_the_others(low: float) -> None:
    """Of one block of the vocabulary that is excluded as a whole, and of the last tokens of another."""
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(n, 8, generator=generator, requires_grad=True) for n in (5, 30))
    tokens, bias = torch.randint(8, 20, (5,), generator=generator), torch.zeros(30)
    bias[:8] = bias[25:] = low

    def scores(weight: Tensor, ids: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        found = gspo_torch.token_scores(hidden, weight, ids, entropy_gradient=True, **options)
        return found.logp, found.entropy

    with small_pieces((3, 4)):
        mine, theirs = scores(head, tokens, bias=bias), scores(head[8:25], tokens - 8)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
            ours, same = (torch.autograd.grad(x.sum(), (hidden, head), retain_graph=True) for x in (a, b))
            torch.testing.assert_close(ours, same, rtol=1e-5, atol=1e-6)
