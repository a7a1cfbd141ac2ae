"""Second derivatives are those of the papers' formulas, stop-gradients included (docs/theory.md, B4)."""

from __future__ import annotations

from collections.abc import Callable

import gspo_torch
import pytest
import torch
from support.differentiable import OBJECTIVES, Inputs, assert_close, by_preset, formula_fn, inputs, loss_fn
from torch import Tensor

from gspo_core import Padded


def hessian_vector(value: Callable[[Tensor], Tensor], logp: Tensor, direction: Tensor) -> Tensor:
    """∂²value/∂logp² · direction by double backward."""
    leaf = logp.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(leaf), leaf, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like(logp)
    (product,) = torch.autograd.grad((gradient * direction).sum(), leaf, allow_unused=True)
    return torch.zeros_like(logp) if product is None else product


def row_hessian(name: str, batch: Inputs, row: int) -> Tensor:
    """[T, T] second derivatives of the loss in one row's log-probs."""
    width = batch.logp.shape[1]
    columns = []
    for t in range(width):
        direction = torch.zeros_like(batch.logp)
        direction[row, t] = 1.0
        columns.append(hessian_vector(loss_fn(name, batch), batch.logp, direction)[row])
    return torch.stack(columns)


def one_row(advantage: float = 2.0) -> Inputs:
    """L = 3 of 4 slots, nothing clipped: d = (0.1, −0.05, 0.1)."""
    mask = torch.tensor([[True, True, False, True]])
    d = torch.tensor([[0.1, -0.05, 0.0, 0.1]], dtype=torch.float64)
    return Inputs(d, torch.zeros_like(d), torch.tensor([advantage], dtype=torch.float64), mask)


def test_the_hessian_of_gspo_has_rank_one() -> None:
    """−A s/L² 11ᵀ, by hand: s = e^0.05."""
    batch = one_row()
    ones = batch.mask[0].double()
    expected = -2.0 * torch.tensor(0.05, dtype=torch.float64).exp() / 9 * torch.outer(ones, ones)
    assert_close(row_hessian("GSPO", batch, 0), expected)


def test_the_hessian_of_gspo_token_is_diagonal() -> None:
    """−A s/L on the diagonal: the same gradient as GSPO's, another curvature."""
    batch = one_row()
    expected = -2.0 * torch.tensor(0.05, dtype=torch.float64).exp() / 3 * torch.diag(batch.mask[0].double())
    assert_close(row_hessian("GSPO_TOKEN", batch, 0), expected)


def test_the_hessian_of_grpo_is_diagonal_in_the_token_ratios() -> None:
    """−A w_t/L on the diagonal."""
    batch = one_row()
    assert_close(row_hessian("GRPO", batch, 0), torch.diag(-2.0 * batch.logp[0].exp() / 3 * batch.mask[0]))


def test_a_clipped_unit_has_no_curvature() -> None:
    batch = one_row()._replace(logp=one_row().logp + 1.0)
    assert not any(row_hessian(name, batch, 0).any() for name in OBJECTIVES)


@by_preset
@pytest.mark.parametrize("seed", range(5))
def test_double_backward_is_autograds_of_the_formula(name: str, seed: int) -> None:
    batch = inputs(seed)
    direction = inputs(seed + 100).logp
    ours = hessian_vector(loss_fn(name, batch), batch.logp, direction)
    assert_close(ours, hessian_vector(formula_fn(name, batch), batch.logp, direction))
    assert ours.any()


@pytest.mark.parametrize("name", ["GSPO_TOKEN", "GRPO"])
def test_with_token_advantages_too(name: str) -> None:
    batch = inputs(3, per_token=True)
    direction = inputs(4).logp
    ours = hessian_vector(loss_fn(name, batch), batch.logp, direction)
    assert_close(ours, hessian_vector(formula_fn(name, batch), batch.logp, direction))


@by_preset
def test_hessian_vector_products_through_a_model(name: str) -> None:
    """Where a saved weight would be silently wrong: the model's curvature and the loss's both count."""
    batch = inputs()
    hidden = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    features = torch.randn((*batch.logp.shape, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def model(parameters: Tensor) -> Tensor:
        return torch.where(batch.mask, batch.logp + 0.05 * torch.tanh(features @ parameters), 0.0)

    def through(loss: Callable[[Tensor], Tensor]) -> Tensor:
        return hessian_vector(lambda parameters: loss(model(parameters)), hidden, torch.ones_like(hidden))

    ours, theirs = through(loss_fn(name, batch)), through(formula_fn(name, batch))
    assert_close(ours, theirs)


@by_preset
def test_a_saved_weight_would_be_wrong(name: str) -> None:
    """The guard: value + w·(logp − sg logp) has the right gradient and no curvature of its own."""
    batch = inputs()
    objective = OBJECTIVES[name]

    def linear(logp: Tensor) -> Tensor:
        loss = gspo_torch.policy_loss(objective, logp.detach(), batch.old, batch.advantage, Padded(batch.mask))
        return loss.value + (loss.logp_grad * (logp - logp.detach())).sum()

    direction = inputs(7).logp
    assert not hessian_vector(linear, batch.logp, direction).any()
    assert hessian_vector(loss_fn(name, batch), batch.logp, direction).any()


@by_preset
def test_third_derivatives(name: str) -> None:
    batch = inputs()
    leaf = batch.logp.clone().requires_grad_()
    thirds = []
    for f in (loss_fn, formula_fn):
        x = f(name, batch)(leaf)
        for _ in range(3):
            (x,) = torch.autograd.grad(x.sum(), leaf, create_graph=True)
        thirds.append(x.detach())
    assert_close(*thirds)


@by_preset
def test_gradgradcheck(name: str) -> None:
    """Torch's own numerical check of first and second derivatives; its default float64 tolerance is relative 1e-3.

    GSPO-token's weight is not the derivative of its value (stop-gradients), so only its second derivative's symmetry
    in the analytic sense is checked above, not here.
    """
    if name == "GSPO_TOKEN":
        return
    batch = inputs(num=2, width=2)
    leaf = batch.logp.clone().requires_grad_()
    assert torch.autograd.gradcheck(loss_fn(name, batch), leaf)
    assert torch.autograd.gradgradcheck(loss_fn(name, batch), leaf)


@by_preset
def test_on_policy_curvature_is_that_of_ratio_one(name: str) -> None:
    """Without old log-probs the ratio is 1 but its derivative is not 0: the curvature of old = sg[logp]."""
    batch = inputs()
    options = {"on_policy": True}
    direction = inputs(7).logp
    ours = hessian_vector(loss_fn(name, batch._replace(old=None), **options), batch.logp, direction)
    assert_close(ours, hessian_vector(formula_fn(name, batch._replace(old=batch.logp)), batch.logp, direction))
    assert ours.any()
