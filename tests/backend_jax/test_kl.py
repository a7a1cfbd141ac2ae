"""gspo_jax.kl_penalty: jax.grad of its value is the weight, the Hessian is that of differences, constants stay constant."""

from __future__ import annotations

from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.budgets import assert_within
from support.inputs.kl_cases import with_and_without_a_cap

from gspo_core import Padded, SequenceMean, kl_penalty

RNG = np.random.default_rng(5)
MASK = RNG.random((3, 5)) < 0.8
LOGP, REF, OLD, DIRECTION = RNG.normal(size=(4, 3, 5))


def value(estimator: Any, logp: Any, ref: Any, old: Any, denominator: Any = None) -> Any:
    """[] the penalty."""
    options = {"reduction": SequenceMean(), "old_logp": old if estimator.off_policy else None, "denominator": denominator}
    return gspo_jax.kl_penalty(estimator, logp, ref, Padded(jnp.asarray(MASK)), **options).value


@with_and_without_a_cap
def test_the_derivative_of_the_value_is_the_weight_at_any_size(estimator: Any) -> None:
    """Float32, log ratios up to a thousand; under jit, and with a graph behind everything that is constant."""

    def through_all(logp: Any, ref: Any, old: Any) -> Any:
        return value(estimator, logp, ref + 0.0 * logp, logp if old is None else old + 0.0 * logp, 2.0 + 0.0 * jnp.sum(logp))

    gradient = jax.jit(jax.grad(through_all))
    for size in (1e-3, 1.0, 1e3):
        logp, ref, old = (np.where(MASK, size * x, 0.0).astype(np.float32) for x in (LOGP, REF, OLD))
        options = {"reduction": SequenceMean(), "old_logp": old if estimator.off_policy else None, "denominator": 2.0}
        exact = kl_penalty(estimator, logp, ref, Padded(MASK), **options).logp_grad
        assert np.isfinite(exact).all()
        found = np.asarray(gradient(*(jnp.asarray(x) for x in (logp, ref, old))))
        assert_within(found, exact, 3e-6 * np.abs(exact) + 1e-12)


@pytest.mark.slow
@with_and_without_a_cap
def test_the_hessian_is_that_of_differences(estimator: Any) -> None:
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(lambda x: value(estimator, x, jnp.asarray(REF), jnp.asarray(OLD))))
        ends = [np.asarray(gradient(jnp.asarray(LOGP + step * DIRECTION))) for step in (1e-5, -1e-5)]
        found = jax.jit(lambda x, t: jax.jvp(gradient, (x,), (t,))[1])(jnp.asarray(LOGP), jnp.asarray(DIRECTION))
    assert_within(np.asarray(found), (ends[0] - ends[1]) / 2e-5, 1e-6 * (1.0 + np.abs(ends[0])))


@with_and_without_a_cap
def test_where_the_cap_acts_is_what_the_core_says(estimator: Any) -> None:
    options = {"reduction": SequenceMean(), "old_logp": OLD if estimator.off_policy else None}
    core = kl_penalty(estimator, LOGP, REF, Padded(MASK), **options)

    @jax.jit
    def found(logp: Any) -> Any:
        given = {**options, "old_logp": None if options["old_logp"] is None else jnp.asarray(OLD)}
        return gspo_jax.kl_penalty(estimator, logp, jnp.asarray(REF), Padded(jnp.asarray(MASK)), **given).capped

    capped = found(jnp.asarray(LOGP))
    assert (capped is None) == (core.capped is None)
    if core.capped is not None:
        assert core.capped.any()
        assert np.array_equal(np.asarray(capped), core.capped)
