"""A loss multiplied by a number before it is differentiated, as loss scaling and averages over micro-batches do."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st
from support.lm_head.agreement import error
from support.lm_head.cases import PARAMETERS, Answer, Problem, from_logits, logits_of
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@st.composite
def factors(draw: st.DrawFn) -> float:
    """±1e-8 … ±1e8, powers of two and others; a float32."""
    size = draw(st.one_of(st.sampled_from([1.0, 65536.0, 1 / 3, 1e-8, 1e8]), st.floats(-8, 8).map(lambda x: 10.0**x)))
    return float(torch.tensor(draw(st.sampled_from([1.0, -1.0])) * size, dtype=torch.float32))


def rounded(problem: Problem, *dtypes: torch.dtype) -> Problem:
    """Hidden states, head and bias, each in a dtype of its own."""
    both = problem.to(torch.float64 if torch.float64 in dtypes[:2] else torch.float32)
    cast = {
        name: None if (x := getattr(both, name)) is None else x.detach().to(dtype).requires_grad_()
        for name, dtype in zip(PARAMETERS, dtypes, strict=True)
    }
    return replace(both, **cast)


def assert_scaled(problem: Problem, factor: float, gradients: dict[str, Tensor], truth: Answer) -> None:
    """|ours − factor · truth| ≤ |factor| (|naive − truth| + floor) + one rounding of the result, entry by entry.

    `truth` is of factor 1. Naive and floor are those of `assert_in_budget`, in the accumulator's dtype: nothing before the last
    rounding may be in the parameters'. Entries beyond a dtype's range are infinite, those below it may lose all their digits.
    """
    wide = torch.float64 if torch.float64 in (problem.hidden.dtype, problem.lm_head.dtype) else torch.float32
    naive = from_logits(problem, wide)
    z, states = logits_of(problem, torch.float64, {}).detach(), problem.hidden[problem.layout.valid].detach().double()
    nats = torch.finfo(wide).eps * (states.shape[-1] * (1 + largest(z)) + z.shape[-1] + problem.tokens.numel())
    c = truth.weight.abs().sum().item() + problem.options.get("entropy_bonus", 0.0) * (1 + largest(z))
    size = {"hidden": c * largest(problem.lm_head), "lm_head": c * largest(states), "bias": c}
    for name, gradient in gradients.items():
        kind = torch.finfo(gradient.dtype)
        wanted = factor * truth.gradients[name]
        sums = abs(factor) * (error(naive.gradients[name], truth.gradients[name]) + nats * size[name])
        budget = sums + 0.505 * kind.eps * wanted.abs() + kind.eps * kind.tiny
        fits = wanted.abs() + budget < kind.max
        assert not gradient.isnan().any(), name
        off = (gradient.double() - wanted).abs()
        assert bool((off <= budget)[fits].all()), f"{name}: {(off / budget)[fits].max().item()} budgets"
        assert bool((gradient.double() * wanted.sign() >= kind.max * (1 - 2 * kind.eps) - sums)[~fits].all()), name


def largest(x: Tensor) -> float:
    """The largest magnitude, 0 of nothing."""
    return x.detach().double().abs().amax().item() if x.numel() else 0.0
