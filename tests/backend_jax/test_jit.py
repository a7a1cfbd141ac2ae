"""jit: objectives are static arguments, layouts are data; one program per bucket of lengths; donated and eager agree."""

from __future__ import annotations

from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.budgets import assert_within
from support.jax_programs.losses import SEQUENCE, inputs, traces, value_of

from gspo_core import GSPO, Packed, Padded, PerToken, Turns, sharded
from gspo_core.layouts import Restricted

BUCKETS = (16, 32)


def bucketed(length: int) -> Any:
    """Two sequences of `length` and length − 1 tokens, padded to the next bucket with NaN."""
    width = next(b for b in BUCKETS if b >= length)
    mask = np.arange(width)[None, :] < np.array([[length], [length - 1]])
    logp = np.where(mask, -1.0 + 0.01 * np.sin(np.arange(width)), np.nan).astype(np.float32)
    return jnp.asarray(logp), jnp.asarray(np.where(mask, -1.0, np.nan).astype(np.float32)), Padded(jnp.asarray(mask))


@pytest.mark.slow
def test_twenty_lengths_compile_once_per_bucket() -> None:
    advantage = jnp.array([1.0, -1.0])
    wide = GSPO.with_clip(0.5, 0.5)
    f, seen = traces(
        jax.value_and_grad(lambda logp, old, layout: gspo_jax.policy_loss(wide, logp, old, advantage, layout).value)
    )
    for length in range(9, 29):
        logp, old, layout = bucketed(length)
        value, gradient = f(logp, old, layout)
        d = 0.01 * np.sin(np.arange(length))
        assert_within(value, -(np.exp(d.mean()) - np.exp(d[:-1].mean())) / 2, 1e-6)  # both unclipped, by hand
        assert np.count_nonzero(gradient) == 2 * length - 1
    assert len(seen) == len(BUCKETS)


@pytest.mark.slow
def test_an_equal_objective_is_the_same_static_argument() -> None:
    x, seen = inputs(dtype=np.float32), []

    def value(objective: Any, y: Any) -> Any:
        seen.append(objective)
        return gspo_jax.policy_loss(objective, *y).value

    f = jax.jit(value, static_argnums=0)
    clips = [GSPO, GSPO.with_clip(3e-4, 4e-4), GSPO.with_clip(0.2, 0.2)]
    values = [f(objective, x) for objective in clips]
    assert seen == [clips[0], clips[2]]
    assert values[0] == values[1] != values[2]


@pytest.mark.slow
def test_every_layout_goes_in_and_comes_out() -> None:
    padded = Padded(jnp.array([[True, True], [True, False]]))
    packed = Packed(jnp.array([0, 0, -1, 1]), 2)
    layouts = [
        padded,
        packed,
        sharded(padded, abs),
        Restricted(padded, jnp.array([[True, False], [True, False]])),
        Turns(packed, jnp.array([0, 1, 0, 0]), 2),
        PerToken(jnp.ones((2, 2))),
    ]
    back = jax.jit(lambda *xs: xs)(*layouts)
    for a, b in zip(layouts, back, strict=True):
        assert type(a) is type(b)
        assert jax.tree.structure(a) == jax.tree.structure(b)
        assert all(jnp.array_equal(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    assert back[1].num_sequences == 2
    assert [len(jax.tree.leaves(x)) for x in layouts] == [1, 1, 2, 2, 2, 1]


@pytest.mark.slow
def test_eager_is_jitted() -> None:
    x = inputs(dtype=np.float32)
    f = jax.value_and_grad(value_of(SEQUENCE, x))
    for a, b in zip(f(x.logp), jax.jit(f)(x.logp), strict=True):
        assert_within(a, b, 1e-6)
