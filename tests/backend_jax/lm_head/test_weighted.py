"""Weights of sequences reach every term of the head in JAX, as data: one compilation serves all weights."""

from __future__ import annotations

from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.jax_programs.linear_cases import small_pieces

from gspo_core import GSPO_TOKEN, Padded
from gspo_core.kl import K3, KLTerm
from gspo_core.layouts import Weighted

pytestmark = pytest.mark.slow

OBJECTIVE = GSPO_TOKEN.with_clip(0.3, 0.4)
MASK = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=bool)
COPIES = np.array([2, 0, 1, 3])
ROWS = np.repeat(np.arange(4), COPIES)


def test_loss_and_gradients_are_those_of_copies() -> None:
    """Of the policy loss, a KL term and an entropy bonus, which both schemes weigh by the same function."""
    rng = np.random.default_rng(0)
    hidden, head = (rng.normal(size=size).astype(np.float32) for size in ((4, 3, 8), (12, 8)))
    tokens = rng.integers(0, 12, (4, 3))
    old, advantage = np.full((4, 3), -2.5, dtype=np.float32), rng.normal(size=4).astype(np.float32)
    ref = old + 0.3

    def all_of(x: tuple[Any, ...], layout: Any) -> Any:
        hidden, tokens, old, advantage, ref = x

        def value(hidden: Any, head: Any) -> Any:
            term = KLTerm(K3(), ref, 0.1)
            batch = (hidden, head, tokens, old, advantage, layout)
            return gspo_jax.linear_policy_loss(OBJECTIVE, *batch, kl=term, entropy_bonus=0.2, budget_bytes=0).value

        return jax.value_and_grad(value, argnums=(0, 1))(hidden, jnp.asarray(head))

    run, batch = jax.jit(all_of), tuple(jnp.asarray(x) for x in (hidden, tokens, old, advantage, ref))
    with small_pieces(4, 5):
        value, (rows, weight) = run(batch, Weighted(Padded(jnp.asarray(MASK)), jnp.asarray(COPIES)))
        other, (same, theirs) = run(tuple(x[ROWS] for x in batch), Padded(jnp.asarray(MASK[ROWS])))
        heavier, _ = run(batch, Weighted(Padded(jnp.asarray(MASK)), jnp.asarray(4 * COPIES)))
    added = np.zeros_like(hidden)
    np.add.at(added, ROWS, np.asarray(same))
    np.testing.assert_allclose(value, other, rtol=1e-5)
    np.testing.assert_allclose(heavier, value, rtol=1e-6)
    np.testing.assert_allclose(rows, added, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weight, theirs, rtol=1e-4, atol=1e-6)
    assert np.abs(added).max() > 1e-2
