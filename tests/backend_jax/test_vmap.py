"""vmap of the loss, its gradient and its Hessian is a loop: over log-probs, and over everything, masks in layouts included."""

from __future__ import annotations

import functools
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.budgets import assert_within
from support.family import MEMBERS, Member
from support.inputs.one_shape import EXAMPLES
from support.jax_programs.losses import Inputs, by_layout, inputs, loss_at, value_of

pytestmark = pytest.mark.slow

SOME = [member for member in MEMBERS if member.name in {"GSPO", "GSPO_TOKEN", "DEEPSEEK_V3_2", "GMPO"}]
some_members = pytest.mark.parametrize("member", SOME, ids=lambda member: member.name)


def batches(layout: str) -> list[Inputs]:
    """Four batches of one shape with different masks, one of them empty."""
    return [inputs(layout, np.float32, EXAMPLES[name].clean()) for name in ("right padding", "holes", "nothing", "full")]


def stacked(layout: str) -> Inputs:
    """The same along a new first axis, layouts included."""
    found: Inputs = jax.tree.map(lambda *xs: jnp.stack(xs), *batches(layout))
    return found


def full_loss(member: Member, x: Inputs) -> tuple[Any, ...]:
    """Every field, and the gradient."""
    return loss_at(member, x)[:-1], jax.grad(value_of(member, x))(x.logp)


@functools.cache
def mapped_and_looped(layout: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """By member: of the stack, and of each batch alone. Two programs for all members: compiling is what takes the time."""

    def everything(x: Inputs) -> dict[str, Any]:
        return {member.name: full_loss(member, x) for member in SOME}

    alone = jax.jit(everything)
    return jax.jit(jax.vmap(everything))(stacked(layout)), [alone(x) for x in batches(layout)]


@by_layout
@some_members
def test_vmap_over_whole_batches_is_a_loop(member: Member, layout: str) -> None:
    mapped, loop = mapped_and_looped(layout)
    for i, one in enumerate(loop):
        for a, b in zip(jax.tree.leaves(mapped[member.name]), jax.tree.leaves(one[member.name]), strict=True):
            assert_within(a[i], b, 2e-6 * max(1e-3, float(jnp.max(jnp.abs(b.astype(jnp.float32)), initial=0.0))))
    assert len({float(v) for v in mapped[member.name][0][0]}) == 4


@some_members
def test_vmap_over_log_probs_alone(member: Member) -> None:
    x = inputs(dtype=np.float32)
    many = x.logp[None] + jnp.array([0.0, 0.01, -0.02])[:, None, None]
    gradient = jax.grad(value_of(member, x))
    mapped, alone = jax.jit(jax.vmap(gradient))(many), jax.jit(gradient)
    for i in range(3):
        assert_within(mapped[i], alone(many[i]), 1e-7)
    assert jnp.any(mapped[0] != mapped[1])


def test_vmap_over_clip_ranges_is_no_vmap() -> None:
    """An objective is static: another one is another program."""
    x = inputs(dtype=np.float32)
    with pytest.raises(TypeError):
        jax.vmap(lambda objective: gspo_jax.policy_loss(objective, *x).value)(SOME[0].objective)
