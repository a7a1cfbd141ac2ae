"""gspo_jax.policy_loss is the oracle's loss, and jax.grad of it is the oracle's weight: every preset, layout and precision."""

from __future__ import annotations

from typing import Any

import gspo_jax
import gspo_torch
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from budgets import assert_same_bits, assert_within
from cases import core_loss
from family import Member, by_member
from jax_losses import BATCH, SEQUENCE, by_layout, inputs, itself, loss_at, numpy_of, value_of
from libraries import JAX, NUMPY, TORCH
from one_shape import EXAMPLES

from gspo_core import GSPO, Padded, sharded

DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32, x64 off", "float64"])
@by_member
def test_the_loss_and_its_gradient_are_the_oracles(member: Member, dtype: Any) -> None:
    """With NaN in masked slots. The gradient is the weight, bit by bit."""
    batch = EXAMPLES["holes"]
    with JAX.precision(dtype):
        x = inputs(dtype=dtype, batch=batch)

        def told(logp: Any) -> tuple[Any, Any]:
            loss = loss_at(member, x, logp)
            return loss.value, loss

        (_, loss), gradient = jax.jit(jax.value_and_grad(told, has_aux=True))(x.logp)
        assert loss.value.dtype == gradient.dtype == dtype
    assert_same_bits(np.asarray(gradient) + 0.0, np.asarray(loss.logp_grad) + 0.0)
    member.assert_judged(numpy_of(loss), batch, batch.advantage)


@by_layout
@by_member
def test_numpy_torch_and_jax_agree_to_1e_12(member: Member, layout: str) -> None:
    with jax.enable_x64(True):
        x = inputs(layout)
        value, gradient = jax.jit(jax.value_and_grad(value_of(member, x)))(x.logp)
    numpy = core_loss(NUMPY, member.objective, BATCH)
    logp = TORCH.array(BATCH.logp).requires_grad_()
    rest = [TORCH.array(a) for a in (BATCH.old_logp, BATCH.advantage)]
    torch_value = gspo_torch.policy_loss(member.objective, logp, *rest, Padded(TORCH.array(BATCH.mask))).value
    (torch_gradient,) = torch.autograd.grad(torch_value, logp)
    scale = np.abs(numpy.logp_grad).sum() + abs(float(numpy.value))
    for other in (numpy.value, torch_value.detach().numpy()):
        assert_within(value, other, 1e-12 * scale)
    for other in (numpy.logp_grad, torch_gradient.numpy()):
        assert_within(np.asarray(gradient).reshape(BATCH.mask.shape), other, 1e-12 * scale)


def test_the_batch_has_clipped_and_live_units() -> None:
    loss = core_loss(NUMPY, GSPO, BATCH)
    assert loss.clipped.any()
    assert np.count_nonzero(loss.logp_grad) > 3


def test_gradients_flow_to_logp_only() -> None:
    x = inputs(dtype=np.float32)

    def value(logp: Any, old: Any, advantage: Any, denominator: Any) -> Any:
        return gspo_jax.policy_loss(GSPO, logp, old, advantage, x.layout, denominator=denominator).value

    gradients = jax.grad(value, argnums=(0, 1, 2, 3))(*x[:3], jnp.float32(5.0))
    assert jnp.any(gradients[0] != 0)
    assert not any(jnp.any(g != 0) for g in gradients[1:])


def test_the_other_fields_have_no_gradient() -> None:
    x = inputs(dtype=np.float32)
    for name in ("logp_grad", "log_ratio", "denominator"):
        gradient = jax.grad(lambda logp, n=name: jnp.sum(getattr(loss_at(SEQUENCE, x, logp), n)))(x.logp)
        assert not jnp.any(gradient != 0)


def test_the_upstream_gradient_scales() -> None:
    x, member = inputs(dtype=np.float32), SEQUENCE
    gradient = jax.grad(lambda logp: 3.0 * value_of(member, x)(logp))(x.logp)
    assert_within(gradient, 3.0 * loss_at(member, x).logp_grad, 1e-7)


def test_on_policy_the_ratio_is_one_and_the_gradient_is_not_zero() -> None:
    x = inputs(dtype=np.float32)
    f = jax.value_and_grad(lambda logp: gspo_jax.policy_loss(GSPO, logp, None, x.advantage, x.layout, on_policy=True).value)
    g = jax.value_and_grad(lambda logp: gspo_jax.policy_loss(GSPO, logp, x.logp, x.advantage, x.layout).value)
    for a, b in zip(f(x.logp), g(x.logp), strict=True):
        assert_same_bits(a, b)


def test_low_precision_log_probs_have_gradients_in_their_dtype() -> None:
    x = inputs(dtype=np.float32)
    logp = x.logp.astype(jnp.bfloat16)
    gradient = jax.grad(lambda y: gspo_jax.policy_loss(GSPO, y, *x[1:], allow_low_precision=True).value)(logp)
    assert gradient.dtype == jnp.bfloat16
    wide = jax.grad(lambda y: gspo_jax.policy_loss(GSPO, y, *x[1:]).value)(logp.astype(jnp.float32))
    assert_same_bits(np.asarray(gradient), np.asarray(wide.astype(jnp.bfloat16)))


def test_a_layout_that_is_sharded_elsewhere_is_a_pytree_too() -> None:
    x = inputs("one shard", dtype=np.float32)
    leaves = jax.tree.leaves(sharded(Padded(x.layout.valid), itself))
    assert len(leaves) == 2  # the mask, the lengths
    with pytest.raises(TypeError, match=r"^layout: expected a layout such as Padded\(mask\)"):
        gspo_jax.policy_loss(GSPO, *x[:3], x.layout.valid)
