"""Every matrix product of gspo_jax sums in float32 and rounds no float32 operand: not on devices that would by default, either.

On an H100 the default rounded them to TF32: gradients were wrong by 2e-4 instead of 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from gspo_core import GSPO, Padded

pytestmark = pytest.mark.slow

LOW = (jnp.bfloat16, jnp.float16)


def products(jaxpr: Any) -> Iterator[Any]:
    """The dot_generals of a jaxpr, however deep in loops and branches."""
    for equation in jaxpr.eqns:
        if equation.primitive is lax.dot_general_p:
            yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from products(getattr(inner, "jaxpr", inner))


def traced(dtype: Any, budget_bytes: int, **options: Any) -> list[Any]:
    """The products of a loss and its gradients."""
    layout, tokens = Padded(jnp.ones((4, 40), dtype=bool)), jnp.zeros((4, 40), dtype=jnp.int32)

    def value(hidden: Any, head: Any) -> Any:
        rest = (tokens, jnp.zeros((4, 40)), jnp.ones(4), layout)
        return gspo_jax.linear_policy_loss(GSPO, hidden, head, *rest, budget_bytes=budget_bytes, **options).value

    shapes = (jnp.zeros((4, 40, 8), dtype=dtype), jnp.zeros((50, 8), dtype=dtype))
    return list(products(jax.make_jaxpr(jax.grad(value, argnums=(0, 1)))(*shapes).jaxpr))


def is_exact(product: Any) -> bool:
    """Whether it sums in float32, and multiplies operands as they are."""
    wide = product.outvars[0].aval.dtype == jnp.float32
    low = all(x.aval.dtype in LOW for x in product.invars)
    given = product.params["precision"]
    return wide and (low or given in (lax.Precision.HIGHEST, (lax.Precision.HIGHEST, lax.Precision.HIGHEST)))


@pytest.mark.parametrize(
    ("dtype", "budget", "accelerator"),
    [
        pytest.param(jnp.float32, 0, False, id="float32, two-pass"),
        pytest.param(jnp.float32, 2**24, True, id="float32, aligned, accelerator"),
        pytest.param(jnp.bfloat16, 0, True, id="bfloat16, two-pass, accelerator"),
        pytest.param(jnp.bfloat16, 0, False, id="bfloat16, two-pass"),
        pytest.param(jnp.bfloat16, 2**24, False, id="bfloat16, aligned"),
    ],
)
def test_no_product_rounds(dtype: Any, budget: int, accelerator: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gspo_jax.lm_head.two_pass._on_accelerator", lambda: accelerator)
    jax.clear_caches()
    found = traced(dtype, budget)
    assert len(found) >= 3
    assert all(is_exact(product) for product in found)
    low = [product for product in found if product.invars[0].aval.dtype in LOW]
    assert bool(low) == (dtype == jnp.bfloat16)
    assert (len(low) == len(found)) == (dtype == jnp.bfloat16 and accelerator and not budget)  # CPUs widen backward's


def test_a_product_by_default_is_seen() -> None:
    """The guard."""
    a = jnp.zeros((2, 2))
    assert not any(map(is_exact, products(jax.make_jaxpr(lambda x: lax.fori_loop(0, 2, lambda _, y: y @ y, x))(a).jaxpr)))
    b = a.astype(jnp.bfloat16)
    assert not any(map(is_exact, products(jax.make_jaxpr(lambda x: x @ x)(b).jaxpr)))
    assert list(products(jax.make_jaxpr(lambda x: lax.fori_loop(0, 2, lambda _, y: y @ y, x))(a).jaxpr))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_what_an_accelerator_does_agrees_with_what_a_cpu_does(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of a tile are rounded to the parameters' type for the next product, and summed in float32."""
    key = jax.random.split(jax.random.key(0), 3)
    hidden, head = jax.random.normal(key[0], (30, 8)).astype(dtype), jax.random.normal(key[1], (50, 8)).astype(dtype)
    tokens, weight = jax.random.randint(key[2], (30,), 0, 50), jnp.linspace(-1.0, 1.0, 30)

    def gradients(accelerator: bool) -> Any:
        jax.clear_caches()
        monkeypatch.setattr("gspo_jax.lm_head.two_pass._on_accelerator", lambda: accelerator)
        value = jax.grad(lambda *x: jnp.sum(weight * gspo_jax.token_logp(*x, tokens)), argnums=(0, 1))
        return jax.jit(value)(hidden, head)

    rounding = 2.0**-8 if dtype == jnp.bfloat16 else 2.0**-22
    for ours, theirs in zip(gradients(True), gradients(False), strict=True):
        error = jnp.linalg.norm((ours - theirs).astype(jnp.float32)) / jnp.linalg.norm(theirs.astype(jnp.float32))
        assert float(error) <= 2 * rounding
    jax.clear_caches()
