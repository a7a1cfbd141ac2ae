"""A token whose logit is −∞, as those of vocabulary padding are, is a token that is not there."""

from __future__ import annotations

from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.jax_programs.linear_cases import small_pieces

pytestmark = pytest.mark.slow


def test_entropies_and_gradients_are_those_of_the_other_tokens() -> None:
    """One block of the vocabulary is excluded as a whole, and the last tokens of another, with −∞ or the least number."""
    rng = np.random.default_rng(0)
    hidden, head = (jnp.asarray(rng.normal(size=(n, 8)), dtype=jnp.float32) for n in (5, 30))
    tokens = jnp.asarray(rng.integers(10, 20, 5), dtype=jnp.int32)

    @jax.jit
    def all_of(hidden: Any, head: Any, bias: Any, first: Any) -> Any:
        def total(x: tuple[Any, Any], weights: Any) -> Any:
            scores = gspo_jax.token_scores(*x, tokens - first, bias=bias, entropy_gradient=True)
            return jnp.sum(weights[0] * scores.logp + weights[1] * scores.entropy)

        return [jax.value_and_grad(total)((hidden, head), w) for w in (jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))]

    with small_pieces(4, 5):
        theirs = all_of(hidden, head[10:25], jnp.zeros(15), 10)
        for low in (-jnp.inf, jnp.finfo(jnp.float32).min):
            mine = all_of(hidden, head, jnp.zeros(30).at[:10].set(low).at[25:].set(low), 0)
            for (value, (rows, weight)), (other, (same, less)) in zip(mine, theirs, strict=True):
                np.testing.assert_allclose(value, other, rtol=1e-5)
                np.testing.assert_allclose(rows, same, rtol=1e-4, atol=1e-6)
                np.testing.assert_allclose(weight[10:25], less, rtol=1e-4, atol=1e-6)
                assert not weight[:10].any()
