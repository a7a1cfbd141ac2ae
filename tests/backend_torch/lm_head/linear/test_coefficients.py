"""Coefficients of a KL term and an entropy bonus: numbers or [] tensors of either sign, 0, and not the same at every step."""

from __future__ import annotations

from typing import Any

import gspo_torch
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gspo_core import GSPO, Padded
from gspo_core.kl import K3, KLTerm

DRAWS = torch.Generator().manual_seed(0)
HIDDEN, HEAD = (torch.randn(*shape, generator=DRAWS, dtype=torch.float64) for shape in ((3, 4, 5), (7, 5)))
OLD, REF = (-1.0 - torch.rand(3, 4, generator=DRAWS, dtype=torch.float64) for _ in range(2))
TOKENS, LAYOUT = torch.arange(12).reshape(3, 4) % 7, Padded(torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]) > 0)
ADVANTAGE = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
coefficients = st.sampled_from([0.0, 0.5, -0.25, 3.0])


def parts(beta: Any, bonus: Any, ref: Any = REF) -> tuple[Any, list[torch.Tensor]]:
    """The loss, and its gradients for hidden and head."""
    inputs = [x.clone().requires_grad_() for x in (HIDDEN, HEAD)]
    kl = None if beta is None else KLTerm(K3(), ref, beta)
    loss = gspo_torch.linear_policy_loss(GSPO, *inputs, TOKENS, OLD, ADVANTAGE, LAYOUT, kl=kl, entropy_bonus=bonus)
    return loss, list(torch.autograd.grad(loss.value, inputs))


@given(beta=coefficients, bonus=coefficients)
def test_the_loss_is_linear_in_both(beta: float, bonus: float) -> None:
    """value = policy loss + β KL − b (mean entropy), and its gradients with it, from the parts at coefficients of 1."""
    loss, gradients = parts(beta, bonus)
    alone, with_kl, with_bonus = parts(None, None), parts(1.0, None), parts(None, 1.0)

    def combined(a: Any, kl: Any, entropy: Any) -> Any:
        return a + beta * (kl - a) + bonus * (entropy - a)

    torch.testing.assert_close(loss.value, combined(*(x[0].value for x in (alone, with_kl, with_bonus))), rtol=0, atol=1e-13)
    for k in range(2):
        expected = combined(*(x[1][k] for x in (alone, with_kl, with_bonus)))
        torch.testing.assert_close(gradients[k], expected, rtol=0, atol=1e-12)


@given(beta=coefficients, bonus=coefficients)
def test_numbers_and_tensors_are_the_same_bit_for_bit(beta: float, bonus: float) -> None:
    """Also in another dtype, and with a graph of their own, in which nothing is recorded."""
    whole, gradients = parts(beta, bonus)
    graph = torch.tensor([beta, bonus], requires_grad=True)
    for kind in (np.float32, jnp.asarray, torch.tensor, lambda x: torch.tensor(x, dtype=torch.bfloat16)):
        loss, found = parts(kind(beta), kind(bonus))
        assert torch.equal(loss.value, whole.value)
        assert all(torch.equal(a, b) for a, b in zip(found, gradients, strict=True))
    loss, found = parts(graph[0], graph[1])
    assert torch.equal(loss.value, whole.value)
    assert torch.autograd.grad(parts(graph[0], graph[1])[0].value, graph, allow_unused=True) == (None,)


@pytest.mark.parametrize("zero", [0.0, torch.tensor(0.0)], ids=["number", "tensor"])
def test_a_coefficient_of_zero_measures_and_adds_nothing(zero: Any) -> None:
    """Even to an infinite KL."""
    far = torch.where(torch.arange(4) == 0, -torch.inf, REF)
    loss, gradients = parts(zero, zero, far)
    alone, expected = parts(None, None)
    torch.testing.assert_close(loss.value, alone.value, rtol=0, atol=1e-14)  # another scheme, summed in another order
    torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-14)
    assert loss.kl is not None
    assert loss.entropy is not None
    assert float(loss.entropy[0, 0]) > 0
