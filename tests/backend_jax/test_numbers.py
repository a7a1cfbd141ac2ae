"""Numbers in JAX: read where they can be, and a traced denominator out of range makes the loss NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gspo_core import GSPO, Padded

pytestmark = pytest.mark.slow

HIDDEN, HEAD, TOKENS = jnp.ones((2, 3, 4)), jnp.ones((5, 4)), jnp.zeros((2, 3), dtype=jnp.int32)
LAYOUT = Padded(jnp.ones((2, 3), dtype=bool))


@pytest.mark.parametrize("make", [np.float32, np.asarray, torch.tensor, jnp.asarray])
def test_a_temperature_of_any_kind_is_the_python_number(make: Callable[[float], Any]) -> None:
    found = gspo_jax.token_logp(HIDDEN, HEAD, TOKENS, temperature=make(0.5))
    assert bool((found == gspo_jax.token_logp(HIDDEN, HEAD, TOKENS, temperature=0.5)).all())
    with pytest.raises(ValueError, match=r"^temperature: expected a positive finite number, got -1"):
        gspo_jax.token_logp(HIDDEN, HEAD, TOKENS, temperature=make(-1.0))


def test_a_traced_temperature_is_refused_in_one_sentence() -> None:
    with pytest.raises(TypeError, match=r"^temperature: expected a number, got .*no real number that can be read here"):
        jax.jit(lambda t: gspo_jax.token_logp(HIDDEN, HEAD, TOKENS, temperature=t))(0.5)


def test_a_traced_denominator_out_of_range_makes_the_loss_nan() -> None:
    """And one in range leaves every bit."""
    x = jnp.zeros((2, 3))

    def value(divisor: Any) -> Any:
        return gspo_jax.policy_loss(GSPO, x, x, jnp.ones(2), LAYOUT, denominator=divisor).value

    traced = jax.jit(value)
    assert float(traced(4.0)) == float(value(4.0)) == -0.5
    assert all(math.isnan(float(traced(number))) for number in (0.0, -2.0, math.nan, math.inf))
    with pytest.raises(ValueError, match=r"^denominator: expected a positive finite number, got -2"):
        jax.jit(lambda y: gspo_jax.policy_loss(GSPO, y, y, jnp.ones(2), LAYOUT, denominator=-2).value)(x)
