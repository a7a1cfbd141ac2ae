"""gspo_jax.policy_loss is the oracle's loss, and jax.grad of it is the oracle's weight: every preset, layout and precision."""

from __future__ import annotations

import functools
from typing import Any

import gspo_jax
import gspo_torch
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.budgets import assert_same_bits, assert_within
from support.cases import core_loss
from support.family import MEMBERS, Member, by_member
from support.inputs.one_shape import EXAMPLES
from support.jax_programs.losses import BATCH, EVERY_LAYOUT, SEQUENCE, inputs, itself, loss_at, value_of
from support.libraries import JAX, NUMPY, TORCH

from gspo_core import GSPO, Loss, Padded, sharded

pytestmark = pytest.mark.slow

POISONED = EXAMPLES["holes"]


@functools.cache
def losses_and_gradients(layout: str, dtype: type) -> dict[str, tuple[Loss, np.ndarray]]:
    """By member, as padded arrays; NaN in masked slots. One program for all members: compiling is what takes the time."""
    with JAX.precision(dtype):
        x = inputs(layout, dtype, POISONED)

        def told(member: Member, logp: Any) -> tuple[Any, Any]:
            loss = loss_at(member, x, logp)
            return loss.value, loss

        def everything(logp: Any) -> dict[str, Any]:
            return {m.name: jax.value_and_grad(functools.partial(told, m), has_aux=True)(logp) for m in MEMBERS}

        found = jax.jit(everything)(x.logp)
        return {name: (padded(loss), padded(gradient)) for name, ((_, loss), gradient) in found.items()}


def padded(x: Any) -> Any:
    """NumPy arrays with one row per sequence."""
    shape = POISONED.mask.shape
    return jax.tree.map(lambda a: np.asarray(a).reshape(shape) if a.size == POISONED.mask.size else np.asarray(a), x)


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        *(pytest.param(layout, np.float64, id=f"{layout}, float64") for layout in EVERY_LAYOUT),
        pytest.param("packed", np.float32, id="packed, float32, x64 off"),
    ],
)
@by_member
def test_the_loss_and_its_gradient_are_the_oracles(member: Member, layout: str, dtype: type) -> None:
    """The gradient is the weight, bit by bit."""
    loss, gradient = losses_and_gradients(layout, dtype)[member.name]
    assert loss.value.dtype == gradient.dtype == dtype
    assert_same_bits(gradient + 0.0, loss.logp_grad + 0.0)
    member.assert_judged(loss, POISONED, POISONED.advantage)


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
@by_member
def test_numpy_torch_and_jax_agree_to_1e_12(member: Member, layout: str) -> None:
    loss, gradient = losses_and_gradients(layout, np.float64)[member.name]
    numpy = core_loss(NUMPY, member.objective, BATCH)
    logp = TORCH.array(BATCH.logp).requires_grad_()
    rest = [TORCH.array(a) for a in (BATCH.old_logp, BATCH.advantage)]
    torch_value = gspo_torch.policy_loss(member.objective, logp, *rest, Padded(TORCH.array(BATCH.mask))).value
    (torch_gradient,) = torch.autograd.grad(torch_value, logp)
    scale = np.abs(numpy.logp_grad).sum() + abs(float(numpy.value))
    for other in (numpy.value, torch_value.detach().numpy()):
        assert_within(loss.value, other, 1e-12 * scale)
    for other in (numpy.logp_grad, torch_gradient.numpy()):
        assert_within(gradient, other, 1e-12 * scale)


@by_member
def test_the_batch_has_silent_and_live_units(member: Member) -> None:
    """Of every member that silences any."""
    loss = core_loss(NUMPY, member.objective, BATCH)
    assert loss.clipped.any() == member.has_an_edge
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
