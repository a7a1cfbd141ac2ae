"""gspo_torch.policy_loss is the core's loss, and autograd's gradient of it is the core's weight."""

from __future__ import annotations

from dataclasses import replace

import gspo_torch
import numpy as np
import pytest
import torch
from hypothesis import given
from support.budgets import assert_same_bits
from support.cases import Batch, Case, batches
from support.differentiable import HIGH, LOW, OBJECTIVES, assert_close, by_preset, formula_fn, inputs, loss_fn
from support.libraries import TORCH

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Objective, Padded, TokenMean, policy_loss

DTYPES = [torch.float32, torch.float64]


def arguments(batch: Batch, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Padded]:
    """logp, a leaf; old_logp, advantage, layout."""
    arrays = [TORCH.array(x).to(dtype) for x in (batch.logp, batch.old_logp, batch.advantage)]
    return arrays[0].requires_grad_(), arrays[1], arrays[2], Padded(TORCH.array(batch.mask))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(batch=batches())
def test_value_and_everything_else_are_the_cores_bit_by_bit(case: Case, dtype: torch.dtype, batch: Batch) -> None:
    objective = batch.with_clip(case.preset)
    logp, *rest = arguments(batch, dtype)
    ours, core = gspo_torch.policy_loss(objective, logp, *rest), policy_loss(objective, logp.detach(), *rest)
    for a, b in zip(ours[:-1], core[:-1], strict=True):
        assert_same_bits(a.detach().numpy(), b.numpy())
    assert ours.on_policy is core.on_policy is False


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(batch=batches())
def test_the_gradient_is_the_cores_weight_bit_by_bit(case: Case, dtype: torch.dtype, batch: Batch) -> None:
    """Poisoned padding and units on the bound included."""
    logp, *rest = arguments(batch, dtype)
    loss = gspo_torch.policy_loss(batch.with_clip(case.preset), logp, *rest)
    (gradient,) = torch.autograd.grad(loss.value, logp)
    assert_same_bits(gradient.numpy(), loss.logp_grad.numpy())


@by_preset
@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_is_autograds_of_the_formula(name: str, seed: int) -> None:
    batch = inputs(seed)
    logp = batch.logp.clone().requires_grad_()
    (ours,) = torch.autograd.grad(loss_fn(name, batch)(logp), logp)
    (theirs,) = torch.autograd.grad(formula_fn(name, batch)(logp), logp)
    assert_close(ours, theirs)
    assert ours.count_nonzero() > 0


@by_preset
def test_the_inputs_of_the_transform_tests_have_clipped_and_live_units(name: str) -> None:
    draws = [inputs(seed) for seed in range(5)]
    losses = [gspo_torch.policy_loss(OBJECTIVES[name], b.logp, b.old, b.advantage, Padded(b.mask)) for b in draws]
    assert any(loss.clipped.any() for loss in losses)
    assert all(loss.logp_grad.count_nonzero() > 0 for loss in losses)
    for batch in draws:
        ratio = GSPO.ratio if name != "GRPO" else GRPO.ratio
        log_ratio = ratio.log_ratio(batch.logp - batch.old, Padded(batch.mask))
        bounds = torch.tensor([np.log1p(-LOW), np.log1p(HIGH)])
        assert (log_ratio.reshape(-1, 1) - bounds).abs().min() > 1e-6


@by_preset
def test_the_upstream_gradient_scales_and_accumulates(name: str) -> None:
    batch = inputs()
    logp = batch.logp.clone().requires_grad_()
    (3.0 * loss_fn(name, batch)(logp)).backward()
    loss_fn(name, batch)(logp).backward()
    weight = gspo_torch.policy_loss(OBJECTIVES[name], batch.logp, batch.old, batch.advantage, Padded(batch.mask)).logp_grad
    assert_close(logp.grad, 4.0 * weight)


@by_preset
def test_the_gradient_flows_through_a_model(name: str) -> None:
    batch = inputs()
    scale = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    ours, theirs = (torch.autograd.grad(f(name, batch)(scale * batch.logp), scale)[0] for f in (loss_fn, formula_fn))
    assert_close(ours, theirs)


@by_preset
def test_gradients_flow_to_logp_only(name: str) -> None:
    batch = inputs()
    leaves = [x.clone().requires_grad_() for x in (batch.logp, batch.old, batch.advantage)]
    denominator = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    loss = gspo_torch.policy_loss(OBJECTIVES[name], *leaves, Padded(batch.mask), denominator=denominator)
    loss.value.backward()
    assert leaves[0].grad is not None
    assert leaves[1].grad is leaves[2].grad is denominator.grad is None
    assert not any(x.requires_grad for x in (loss.logp_grad, loss.log_ratio, loss.clipped, loss.denominator))


@by_preset
def test_without_a_leaf_there_is_no_graph(name: str) -> None:
    batch = inputs()
    assert not loss_fn(name, batch)(batch.logp).requires_grad
    with torch.no_grad():
        assert not loss_fn(name, batch)(batch.logp.clone().requires_grad_()).requires_grad


@by_preset
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, *DTYPES], ids=str)
def test_the_gradient_has_the_dtype_of_logp(name: str, dtype: torch.dtype) -> None:
    """Also if old_logp is wider and the loss therefore float64."""
    batch = inputs()
    logp = batch.logp.to(dtype).requires_grad_()
    value = loss_fn(name, batch, allow_low_precision=True)(logp)
    value.backward()
    assert value.dtype == torch.float64
    assert logp.grad.dtype == dtype
    upcast = logp.detach().double().requires_grad_()
    loss_fn(name, batch)(upcast).backward()
    assert torch.equal(logp.grad, upcast.grad.to(dtype))


@by_preset
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")  # the notice that it is on
def test_anomaly_detection_finds_none_in_poisoned_padding(name: str) -> None:
    batch = inputs()
    logp, old = (torch.where(batch.mask, x, torch.nan) for x in (batch.logp, batch.old))
    logp.requires_grad_()
    with torch.autograd.detect_anomaly(check_nan=True):
        value = gspo_torch.policy_loss(OBJECTIVES[name], logp, old, batch.advantage, Padded(batch.mask)).value
        (gradient,) = torch.autograd.grad(value, logp, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), logp)
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(second).all()


@by_preset
def test_on_policy_without_old_log_probs(name: str) -> None:
    batch = inputs()
    logp = batch.logp.clone().requires_grad_()
    loss = gspo_torch.policy_loss(OBJECTIVES[name], logp, None, batch.advantage, Padded(batch.mask), on_policy=True)
    (gradient,) = torch.autograd.grad(loss.value, logp)
    (theirs,) = torch.autograd.grad(formula_fn(name, batch._replace(old=batch.logp))(logp), logp)
    assert loss.on_policy is True
    assert_close(gradient, theirs)


@pytest.mark.parametrize("objective", [GSPO_TOKEN, GRPO], ids=["GSPO_TOKEN", "GRPO"])
def test_a_mean_over_tokens_has_its_gradient_too(objective: Objective) -> None:
    batch = inputs(per_token=True)
    logp = batch.logp.clone().requires_grad_()
    loss = gspo_torch.policy_loss(
        replace(objective, reduction=TokenMean()), logp, batch.old, batch.advantage, Padded(batch.mask)
    )
    (gradient,) = torch.autograd.grad(loss.value, logp)
    assert torch.equal(gradient, loss.logp_grad)
