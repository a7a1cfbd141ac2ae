"""gspo_torch takes every layout: gradients, second derivatives and compiled graphs are those of the padded loss."""

from __future__ import annotations

from collections.abc import Callable

import gspo_torch
import pytest
import torch
from support.cases import CASES, Case
from torch import Tensor

from gspo_core import Packed, Padded, PerToken, sharded
from gspo_core.layouts import Layout

Flat = Callable[[Tensor], Tensor]


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logp, old_logp, token advantages, mask): [5, 4], ragged, an empty row, poison, some units beyond the clip range."""
    generator = torch.Generator().manual_seed(3)
    logp, noise, advantage = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]) > 0
    old = torch.where(mask, logp + 0.05 * noise, torch.nan)
    return logp, old, advantage, mask


def loss_on(case: Case, layout: Layout, shape: Flat) -> Callable[[Tensor], Tensor]:
    """The loss as a function of padded log-probs, in another layout; a token advantage where the preset takes one."""
    _, old, advantage, _ = batch()
    objective = case.preset.with_clip(0.02, 0.03)
    given = PerToken(shape(advantage)) if case.per_token else advantage[:, 0]
    return lambda x: gspo_torch.policy_loss(objective, shape(x), shape(old), given, layout).value


def layouts() -> dict[str, tuple[Layout, Flat]]:
    """The padded layout, and others that hold the same tokens."""
    *_, mask = batch()
    ids = torch.where(mask, torch.arange(5)[:, None], -1)
    return {
        "padded": (Padded(mask), lambda x: x),
        "packed": (Packed(ids.reshape(-1), 5), lambda x: x.reshape(-1)),
        "one shard": (sharded(Padded(mask), lambda x: x), lambda x: x),
    }


@pytest.mark.parametrize("name", ["packed", "one shard"])
def test_gradient_and_hessian_are_the_padded_ones(case: Case, name: str) -> None:
    padded, other = (loss_on(case, *layouts()[key]) for key in ("padded", name))
    logp = batch()[0].requires_grad_()
    first = [torch.autograd.grad(f(logp), logp, create_graph=True)[0] for f in (padded, other)]
    assert torch.allclose(*first, rtol=1e-12, atol=0)
    assert (first[0] != 0).sum() > 3
    assert ((first[0] == 0) & batch()[3]).any(), "nothing is clipped"
    direction = torch.linspace(-1, 1, logp.numel(), dtype=torch.float64).reshape(logp.shape)
    second = [torch.autograd.grad((g * direction).sum(), logp)[0] for g in first]
    assert second[0].abs().max() > 1e-3
    assert torch.allclose(*second, rtol=1e-11, atol=1e-15)


def test_a_packed_loss_can_be_mapped_over_a_batch(case: Case) -> None:
    f = loss_on(case, *layouts()["packed"])
    logp = batch()[0]
    many = torch.stack([logp, logp + 0.01, logp - 0.01])
    mapped = torch.func.vmap(torch.func.grad(f))(many)
    single = torch.stack([torch.func.grad(f)(x) for x in many])
    assert torch.allclose(mapped, single, rtol=1e-12, atol=0)


@pytest.mark.slow
# Torch deprecates parts of itself, which Dynamo uses.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_packed_loss_compiles_without_a_break() -> None:
    """GSPO-token; test_compile has the others in padded rows."""
    (token_case,) = (case for case in CASES if case.name == "GSPO_TOKEN")
    f = loss_on(token_case, *layouts()["packed"])
    compiled = torch.compile(f, fullgraph=True, backend="eager")
    logp = batch()[0].requires_grad_()
    gradients = [torch.autograd.grad(g(logp), logp)[0] for g in (f, compiled)]
    assert torch.allclose(*gradients, rtol=1e-12, atol=0)
