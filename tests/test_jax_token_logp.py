"""gspo_jax.token_logp is log_softmax of the logits at the sampled tokens, values and gradients, however it is cut."""

from __future__ import annotations

from typing import Any, NamedTuple

import gspo_jax
import gspo_jax.logp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budgets import assert_within

OPTIONS: list[dict[str, Any]] = [{}, {"temperature": 0.7}, {"soft_cap": 2.0}, {"temperature": 1.3, "soft_cap": 3.0}]
# Vocabularies that blocks of 3 to 5 rows divide, do not divide, and are larger than; token counts that chunks of 4 do not.
SHAPES = [(2, 5, 20), (1, 7, 23), (3, 1, 2), (1, 1, 7), (2, 0, 20)]


class Problem(NamedTuple):
    """[..., H] hidden states, the head, token ids, and upstream weights."""

    hidden: Any
    weight: Any
    bias: Any
    tokens: Any
    upstream: Any


def problem(shape: tuple[int, int, int], dtype: Any = np.float64, h: int = 6) -> Problem:
    """Random, logits of a few units."""
    rng = np.random.default_rng(sum(shape))
    *where, vocabulary = shape
    hidden, weight, bias = (rng.normal(size=s) for s in ((*where, h), (vocabulary, h), (vocabulary,)))
    tokens = jnp.asarray(rng.integers(0, vocabulary, where).astype(np.int32))
    upstream = jnp.asarray(rng.normal(size=where).astype(np.float32 if dtype != np.float64 else dtype))
    return Problem(*(jnp.asarray(x.astype(dtype)) for x in (hidden, weight, bias)), tokens, upstream)


def naive(p: Problem, hidden: Any, weight: Any, bias: Any, temperature: float = 1.0, soft_cap: float | None = None) -> Any:
    """All logits at once."""
    z = jnp.einsum("...h,vh->...v", hidden, weight)
    z = z if bias is None else z + bias.reshape((1,) * (z.ndim - 1) + (-1,))
    z = z if soft_cap is None else soft_cap * jnp.tanh(z / soft_cap)
    return jnp.take_along_axis(jax.nn.log_softmax(z / temperature, axis=-1), p.tokens[..., None], axis=-1)[..., 0]


def both(p: Problem, with_bias: bool, **options: Any) -> list[tuple[Any, Any]]:
    """(log-probs, gradients of a weighted sum for hidden, head and bias) of ours and of the naive code."""
    arguments = (p.hidden, p.weight, p.bias if with_bias else None)

    def ours(hidden: Any, weight: Any, bias: Any) -> Any:
        return gspo_jax.token_logp(hidden, weight, p.tokens, bias=bias, **options)

    def theirs(hidden: Any, weight: Any, bias: Any) -> Any:
        return naive(p, hidden, weight, bias, **options)

    wanted = (0, 1, 2) if with_bias else (0, 1)

    def run(f: Any) -> tuple[Any, Any]:
        def total(*xs: Any) -> tuple[Any, Any]:
            logp = f(*xs)
            return jnp.sum(p.upstream * logp), logp

        gradients, logp = jax.jit(jax.grad(total, argnums=wanted, has_aux=True))(*arguments)
        return logp, gradients

    return [run(ours), run(theirs)]


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks and blocks even in small problems."""
    monkeypatch.setattr(gspo_jax.logp, "CHUNK_ELEMENTS", 1)
    monkeypatch.setattr(gspo_jax.logp, "BLOCKS", (3, 5))
    monkeypatch.setattr(gspo_jax.logp, "LEAST_CHUNK", 4)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    ("shape", "options", "with_bias"),
    [
        *((shape, {}, False) for shape in SHAPES),
        *((SHAPES[1], options, True) for options in OPTIONS),
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_log_softmax(shape: Any, options: dict[str, Any], with_bias: bool) -> None:
    with jax.enable_x64(True):
        p = problem(shape)
        (logp, gradients), (expected, theirs) = both(p, with_bias, **options)
    assert_within(logp, expected, 1e-13 * 10)
    for ours, reference in zip(gradients, theirs, strict=True):
        assert_within(ours, reference, 1e-13 * 10)
