"""Forward mode: the tangent of gspo_jax.policy_loss is ⟨weight, dlogp⟩, in every layout, and of nothing else."""

from __future__ import annotations

import functools
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.budgets import assert_within
from support.cases import core_loss
from support.family import MEMBERS, Member, by_member
from support.jax_programs.losses import BATCH, SEQUENCE, by_layout, inputs, value_of, weight_direction
from support.libraries import NUMPY


@functools.cache
def tangents(layout: str) -> dict[str, Any]:
    """Of every member, by one program."""
    with jax.enable_x64(True):
        x = inputs(layout)

        def everything(logp: Any, v: Any) -> dict[str, Any]:
            return {member.name: jax.jvp(value_of(member, x), (logp,), (v,))[1] for member in MEMBERS}

        return jax.tree.map(np.asarray, jax.jit(everything)(x.logp, weight_direction(x)))


@pytest.mark.slow
@by_layout
@by_member
def test_the_tangent_is_the_weight_times_the_direction(member: Member, layout: str) -> None:
    with jax.enable_x64(True):
        direction = np.asarray(weight_direction(inputs(layout))).reshape(-1)
    terms = core_loss(NUMPY, member.objective, BATCH).logp_grad.reshape(-1) * direction
    assert_within(tangents(layout)[member.name], terms.sum(), 1e-12 * np.abs(terms).sum())


@pytest.mark.slow
def test_a_nan_in_a_masked_slot_of_the_direction_is_not_read() -> None:
    x = inputs(dtype=np.float32)
    direction = jnp.where(x.layout.valid, weight_direction(x), jnp.nan)
    _, tangent = jax.jvp(value_of(SEQUENCE, x), (x.logp,), (direction,))
    assert jnp.isfinite(tangent)
    assert tangent != 0


def test_a_tangent_of_the_constants_is_not_followed() -> None:
    x = inputs(dtype=np.float32)

    def value(old: Any, advantage: Any) -> Any:
        return gspo_jax.policy_loss(SEQUENCE.objective, x.logp, old, advantage, x.layout).value

    _, tangent = jax.jvp(value, x[1:3], x[1:3])
    assert tangent == 0


@pytest.mark.slow
def test_linearize_is_jvp() -> None:
    x = inputs(dtype=np.float32)
    f = value_of(SEQUENCE, x)
    _, linear = jax.linearize(f, x.logp)
    assert_within(linear(weight_direction(x)), jax.jvp(f, (x.logp,), (weight_direction(x),))[1], 1e-7)
