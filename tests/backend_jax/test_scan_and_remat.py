"""lax.scan over micro-batches adds up to the whole; jax.checkpoint changes nothing."""

from __future__ import annotations

from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.budgets import assert_within
from support.family import MEMBERS, Member
from support.inputs.one_shape import N
from support.jax_programs.losses import inputs, value_of

from gspo_core import Padded

pytestmark = pytest.mark.slow

SOME = [member for member in MEMBERS if member.name in {"GSPO", "GSPO_TOKEN", "GRPO", "DAPO"}]
some_members = pytest.mark.parametrize("member", SOME, ids=lambda member: member.name)


@some_members
def test_a_scan_over_micro_batches_is_the_whole_batch(member: Member) -> None:
    """Values and gradients, the denominator that of the whole; the layout is sliced as data."""
    x = inputs(dtype=np.float32)
    count = member.objective.count(x.layout)
    parts = jax.tree.map(lambda a: a.reshape(4, N // 4, *a.shape[1:]), (x.logp, x.old_logp, x.advantage, x.layout.mask))

    def total(logp: Any) -> Any:
        def step(carry: Any, part: Any) -> tuple[Any, Any]:
            lp, old, advantage, mask = part
            loss = gspo_jax.policy_loss(member.objective, lp, old, advantage, Padded(mask), denominator=count)
            return carry + loss.value, loss.clipped

        return jax.lax.scan(step, jnp.float32(0.0), (logp, *parts[1:]))

    (value, clipped), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(parts[0])
    whole = gspo_jax.policy_loss(member.objective, *x)
    assert_within(value, whole.value, 1e-6)
    assert_within(gradient.reshape(x.logp.shape), whole.logp_grad, 1e-7)
    assert jnp.array_equal(clipped.reshape(whole.clipped.shape), whole.clipped)
    assert jnp.any(whole.logp_grad != 0)


@some_members
def test_remat_is_exact_under_grad_and_hessian(member: Member) -> None:
    x = inputs(dtype=np.float32)
    f = value_of(member, x)
    g = jax.checkpoint(f)
    assert jnp.array_equal(jax.jit(jax.grad(g))(x.logp), jax.jit(jax.grad(f))(x.logp))
    second = [jax.jit(jax.hessian(h))(x.logp) for h in (f, g)]
    assert_within(second[1], second[0], 1e-6)
    assert jnp.any(second[0] != 0)
