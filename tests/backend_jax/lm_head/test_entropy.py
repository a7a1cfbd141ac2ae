"""Entropies to be looked at, without a bonus: those of full logits, in both schemes, and constants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from gspo_jax.lm_head import schemes
from support.budgets import assert_within
from support.jax_programs.linear_cases import arguments, loss_of, ours, precision, ring_of, small_pieces, tensor
from support.lm_head.agreement import assert_in_budget
from support.lm_head.cases import Answer, Problem, from_logits, log_softmax_of, make, packed, with_kl

from gspo_core.kl import K3

pytestmark = pytest.mark.slow

V = 11
TWO_PASS, ALIGNED = {"budget_bytes": 0}, ring_of(8, V)


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    """Several chunks and blocks in every problem."""
    with small_pieces():
        yield


def excluding(problem: Problem) -> Problem:
    """A bias of −∞ for a whole block of the vocabulary and some more, whose tokens do not occur."""
    assert problem.bias is not None
    bias = torch.where(torch.arange(V) < 4, problem.bias.detach(), -torch.inf)
    changed = replace(problem, bias=bias.requires_grad_(), tokens=problem.tokens.clamp(min=-1) % 4)
    old = log_softmax_of(changed, torch.float64, {})[1].detach()
    return replace(changed, old_logp=torch.where(changed.layout.valid, old + 0.01, torch.nan))


PROBLEMS: dict[str, Problem] = {
    "interleaved, without some advantages": packed(make(advantage=torch.tensor([1.0, 0.0, -1.0, 0.0, 2.0]).double()), 1),
    "KL": with_kl(make(options={"temperature": 0.7}), K3()),
    "excluded tokens": excluding(make()),
}


def with_entropies(problem: Problem, **options: Any) -> tuple[Answer, Any]:
    """(value, log-probs, weight and gradients; entropies), compiled."""
    with precision(problem):
        parameters, rest = arguments(problem)

        def total(leaves: dict[str, Any]) -> Any:
            loss = loss_of(problem, leaves, rest, return_entropy=True, return_logp=True, **options)
            return loss.value, (loss.logp, loss.logp_grad, loss.entropy)

        (value, (logp, weight, entropy)), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(parameters)
        found = {name: tensor(g) for name, g in gradients.items()}
        return Answer(tensor(value), tensor(logp), tensor(weight), found), entropy


def assert_those_of_full_logits(problem: Problem, entropy: Any) -> None:
    """And 0 in masked slots."""
    log_p = log_softmax_of(problem, torch.float64, {})[0].detach()
    truth = torch.where(problem.layout.valid, torch.special.entr(log_p.exp()).sum(-1), 0.0)
    assert_within(entropy, truth, 1e-13)
    assert not np.any(np.asarray(entropy)[~problem.layout.valid.numpy()])


@pytest.mark.parametrize("name", ["KL", "excluded tokens"])
def test_entropies_are_those_of_full_logits(name: str) -> None:
    """The aligned way; both ways below."""
    assert_those_of_full_logits(PROBLEMS[name], with_entropies(PROBLEMS[name], **ALIGNED)[1])


@pytest.mark.parametrize("options", [TWO_PASS, ALIGNED], ids=["two-pass", "aligned"])
def test_the_loss_is_the_same_and_its_gradient(options: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its own budget, and bit for bit that with the log-probs of every token; by the aligned scheme if it fits."""
    problem = PROBLEMS["interleaved, without some advantages"]
    if options is ALIGNED:
        monkeypatch.setattr(schemes, "flat_scores", lambda *_: pytest.fail("the loss without a gradient was computed"))
    plain, (looked_at, entropy) = ours(problem, jit=True, return_logp=True, **options), with_entropies(problem, **options)
    assert_those_of_full_logits(problem, entropy)
    assert_in_budget(problem, looked_at, from_logits(problem))
    assert torch.equal(plain.value, looked_at.value)
    for key, gradient in plain.gradients.items():
        assert torch.equal(gradient, looked_at.gradients[key])


def test_entropies_carry_no_gradient() -> None:
    problem = make().to(torch.float32)
    parameters, rest = arguments(problem)

    def read(head: Any) -> Any:
        return jnp.sum(
            loss_of(problem, {**parameters, "lm_head": head}, rest, return_entropy=True, **ring_of(8, V, item=4)).entropy
        )

    value, gradient = jax.jit(jax.value_and_grad(read))(parameters["lm_head"])
    assert value > 0
    assert not np.any(gradient)
