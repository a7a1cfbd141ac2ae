"""torch.func.grad, jacrev and vmap go through the loss and give the same numbers as a loop."""

from __future__ import annotations

from collections.abc import Callable

import gspo_torch
import pytest
import torch
from support.differentiable import OBJECTIVES, Inputs, assert_close, by_preset, formula_fn, inputs, loss_fn
from torch import Tensor

from gspo_core import Padded

SEEDS = range(4)


def stacked() -> Inputs:
    """Four batches of one shape along a new first axis."""
    return Inputs(*(torch.stack(arrays) for arrays in zip(*(inputs(seed) for seed in SEEDS), strict=True)))


def value_of(name: str) -> Callable[..., Tensor]:
    """(logp, old, advantage, mask) ↦ value."""

    def value(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        return gspo_torch.policy_loss(OBJECTIVES[name], logp, old, advantage, Padded(mask)).value

    return value


@by_preset
def test_func_grad_is_the_weight(name: str) -> None:
    batch = inputs()
    loss = gspo_torch.policy_loss(OBJECTIVES[name], batch.logp, batch.old, batch.advantage, Padded(batch.mask))
    assert torch.equal(torch.func.grad(loss_fn(name, batch))(batch.logp), loss.logp_grad)


@by_preset
def test_func_grad_and_value(name: str) -> None:
    batch = inputs()
    gradient, value = torch.func.grad_and_value(loss_fn(name, batch))(batch.logp)
    assert torch.equal(value, loss_fn(name, batch)(batch.logp))
    assert gradient.any()


@by_preset
def test_vmap_of_the_loss_is_a_loop(name: str) -> None:
    values = torch.func.vmap(value_of(name))(*stacked())
    assert_close(values, torch.stack([value_of(name)(*inputs(seed)) for seed in SEEDS]))


@by_preset
def test_vmap_of_grad_is_a_loop(name: str) -> None:
    gradients = torch.func.vmap(torch.func.grad(value_of(name)))(*stacked())
    loop = torch.stack([torch.func.grad(value_of(name))(*inputs(seed)) for seed in SEEDS])
    assert_close(gradients, loop)
    assert len({tuple(g.reshape(-1).tolist()) for g in gradients}) == len(SEEDS)


@by_preset
def test_vmap_over_logp_alone(name: str) -> None:
    """The other inputs shared by all."""
    batch = inputs()
    candidates = torch.stack([batch.logp, batch.old, 0.5 * batch.logp])
    together = torch.func.vmap(torch.func.grad(loss_fn(name, batch)))(candidates)
    assert_close(together, torch.stack([torch.func.grad(loss_fn(name, batch))(logp) for logp in candidates]))


@by_preset
def test_grad_of_vmap(name: str) -> None:
    batch = stacked()

    def total(logp: Tensor) -> Tensor:
        return torch.func.vmap(value_of(name))(logp, *batch[1:]).sum()

    loop = torch.stack([torch.func.grad(value_of(name))(*inputs(seed)) for seed in SEEDS])
    assert_close(torch.func.grad(total)(batch.logp), loop)


@by_preset
@pytest.mark.parametrize("seed", SEEDS)
def test_jacrev_of_jacrev_is_the_formulas_hessian(name: str, seed: int) -> None:
    batch = inputs(seed, num=3, width=3)
    ours, theirs = (torch.func.jacrev(torch.func.jacrev(f(name, batch)))(batch.logp) for f in (loss_fn, formula_fn))
    assert_close(ours, theirs)


@by_preset
def test_vmap_over_rows_gives_one_loss_per_sequence(name: str) -> None:
    """Per-sequence gradients, as for influence or noise scale: each its own batch of one."""
    batch = inputs()

    def one(logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
        return value_of(name)(logp[None], old[None], advantage[None], mask[None])

    gradients = torch.func.vmap(torch.func.grad(one))(*batch)
    whole = torch.func.grad(loss_fn(name, batch))(batch.logp)
    assert_close(gradients / batch.mask.any(-1).sum(), whole)


@by_preset
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")  # torch's own, at first use
def test_forward_mode_is_refused_not_wrong(name: str) -> None:
    """The rule's confessed limit."""
    batch = inputs()
    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(loss_fn(name, batch), (batch.logp,), (torch.ones_like(batch.logp),))
