"""The coefficients of a KL term and an entropy bonus in JAX: of either sign, 0, traced, and one compilation for all of them."""

from __future__ import annotations

from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gspo_core import GSPO, Padded
from gspo_core.kl import K2, K3, KLTerm

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
HIDDEN, HEAD = (jnp.asarray(RNG.normal(size=shape), dtype=jnp.float32) for shape in ((3, 4, 5), (7, 5)))
OLD, REF = (jnp.asarray(-1.0 - RNG.random((3, 4)), dtype=jnp.float32) for _ in range(2))
TOKENS, LAYOUT = (
    jnp.arange(12, dtype=jnp.int32).reshape(3, 4) % 7,
    Padded(jnp.asarray(np.arange(4) < np.array([[4], [2], [1]]))),
)
ADVANTAGE = jnp.array([1.0, -1.0, 0.0])


def value(inputs: Any, beta: Any, bonus: Any, ref: Any = REF, estimator: Any = None) -> Any:
    """[] the loss."""
    kl = None if beta is None else KLTerm(estimator or K3(), ref, beta)
    return gspo_jax.linear_policy_loss(GSPO, *inputs, TOKENS, OLD, ADVANTAGE, LAYOUT, kl=kl, entropy_bonus=bonus).value


def test_the_loss_is_linear_in_both_and_compiled_once() -> None:
    compiled = jax.jit(jax.value_and_grad(value))
    inputs = (HIDDEN, HEAD)
    alone = jax.jit(lambda y: jax.value_and_grad(value)(y, None, None))(inputs)
    with_kl, with_bonus = (compiled(inputs, *map(jnp.asarray, x)) for x in ((1.0, 0.0), (0.0, 1.0)))
    assert np.abs(with_kl[0] - alone[0]) > 1e-2 < np.abs(with_bonus[0] - alone[0])
    for beta, bonus in ((0.0, 0.0), (0.5, -0.25), (-2.0, 0.0), (0.0, 3.0)):
        found = compiled(inputs, jnp.asarray(beta), jnp.asarray(bonus))
        for mine, a, kl, entropy in zip(*(jax.tree.leaves(x) for x in (found, alone, with_kl, with_bonus)), strict=True):
            expected = a + beta * (kl - a) + bonus * (entropy - a)
            np.testing.assert_allclose(mine, expected, rtol=0, atol=2e-6 * (1.0 + np.abs(expected).max()))
    assert compiled._cache_size() == 1


def test_a_term_goes_through_jit_as_an_argument() -> None:
    """Its coefficient is data, as its log-probs are."""

    @jax.jit
    def loss(inputs: Any, kl: KLTerm) -> Any:
        return gspo_jax.linear_policy_loss(GSPO, *inputs, TOKENS, OLD, ADVANTAGE, LAYOUT, kl=kl).value

    one, two = (float(loss((HIDDEN, HEAD), KLTerm(K3(), REF, beta))) for beta in (0.5, 1.0))
    none = jax.jit(lambda inputs: value(inputs, None, None))((HIDDEN, HEAD))
    assert two - one == pytest.approx(one - float(none), abs=1e-6)
    assert loss._cache_size() == 1


def test_a_coefficient_of_zero_adds_nothing_even_to_an_infinite_kl() -> None:
    far = REF.at[:, 0].set(jnp.inf)
    inputs = (HIDDEN, HEAD)
    expected = jax.jit(lambda y: jax.value_and_grad(value)(y, None, None))(inputs)
    # K2's slope is infinite there, K3's is not.
    for zero, estimator in ((0.0, K3()), (0.0, K2()), (jnp.asarray(0.0), K2())):
        found = jax.jit(lambda y, z=zero, k=estimator: jax.value_and_grad(value)(y, z, z, far, k))(inputs)
        for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)
