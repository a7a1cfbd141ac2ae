"""How far a loss on hidden states may be from its float64 truth, and whether a clip decision is too close to call."""

from __future__ import annotations

import math

import torch
from support.lm_head.cases import Answer, Problem, from_logits, log_softmax_of, logits_of
from torch import Tensor

from gspo_core import policy_loss


def error(actual: Tensor, truth: Tensor) -> float:
    """Largest absolute error; NaN counts as infinite."""
    assert actual.shape == truth.shape
    return float(torch.nan_to_num((actual.double() - truth).abs(), nan=torch.inf).amax()) if actual.numel() else 0.0


def _kl_slope(problem: Problem) -> float:
    """At most how fast a KL term's weight changes with log-probs: its own size may be 0 where the policies agree."""
    term = problem.options.get("kl")
    if term is None:
        return 0.0
    logp = from_logits(problem).logp
    apart = 0.0 if logp is None else _largest(torch.where(problem.layout.valid, term.ref_logp.double() - logp.double(), 0.0))
    return abs(float(term.coefficient)) * math.exp(apart)


def assert_in_budget(problem: Problem, answer: Answer, truth: Answer) -> None:
    """|ours − truth| ≤ |naive − truth| + floor, for the value, every log-prob, every weight and every gradient.

    Naive is full logits in float32 (float64 for float64 parameters) from the same numbers. The floor is what another order
    of its sums may cost. A log-prob is off by at most `nats`: a logit sums H products, a softmax V exponentials, a ratio T
    log-probs. exp turns that into a relative error of weights and probabilities, so that gradients are off by `nats` times
    what they sum up: Σ|c| times the largest entry of the other operand. Narrower parameters' gradients are rounded at last.
    """
    wide = torch.float64 if torch.float64 in (problem.hidden.dtype, problem.lm_head.dtype) else torch.float32
    naive = from_logits(problem, wide)
    z = _largest(logits_of(problem, torch.float64, {}))
    rows, width = problem.tokens.numel(), problem.hidden.shape[-1]
    nats = torch.finfo(wide).eps * (width * (1 + z) + len(problem.lm_head) + rows)
    c = truth.weight.abs().sum().item() + problem.options.get("entropy_bonus", 0.0) * (1 + z) + _kl_slope(problem)
    states = torch.where(problem.layout.valid[..., None], problem.hidden.double(), 0.0)
    size = {"hidden": c * _largest(problem.lm_head), "lm_head": c * _largest(states), "bias": c}
    assert error(answer.value, truth.value) <= error(naive.value, truth.value) + nats * (abs(truth.value.item()) + c)
    if answer.logp is not None and naive.logp is not None and truth.logp is not None:
        assert error(answer.logp, truth.logp) <= error(naive.logp, truth.logp) + nats
    assert error(answer.weight, truth.weight) <= error(naive.weight, truth.weight) + nats * c
    for name, gradient in answer.gradients.items():
        wanted, dtype = truth.gradients[name], getattr(problem, name).dtype
        budget = error(naive.gradients[name], wanted) + nats * size[name]
        if dtype != wide:
            budget += torch.finfo(dtype).eps * (_largest(wanted) / 2 + torch.finfo(dtype).tiny)
        assert gradient.dtype == dtype
        assert error(gradient, wanted) <= budget, f"{name}: {error(gradient, wanted)} over {budget}"


def _largest(x: Tensor) -> float:
    return x.detach().double().abs().amax().item() if x.numel() else 0.0


def is_clear_of_kinks(problem: Problem, distance: float = 5e-5) -> bool:
    """No unit is gated or clipped otherwise if all log-probs move by up to `distance` nats per token."""
    if problem.old_logp is None:
        return True
    logp, old = log_softmax_of(problem, torch.float64, {})[1].detach(), problem.old_logp.double()

    def live(shift: float) -> Tensor:
        return policy_loss(problem.objective, logp + shift, old, problem.advantage, problem.layout).logp_grad != 0

    return all(torch.equal(live(0.0), live(shift)) for shift in (-distance, -distance / 3, distance / 3, distance))
