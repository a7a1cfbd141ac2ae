"""gspo_jax.token_logp is log_softmax of the logits at the sampled tokens, values and gradients, however it is cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gspo_jax.lm_head import two_pass
from gspo_jax.lm_head.per_token import Wanted
from support.budgets import assert_within
from support.jax_programs.linear_cases import largest_array, small_pieces

pytestmark = pytest.mark.slow


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
    return jnp.take_along_axis(jax.nn.log_softmax(z / temperature, axis=-1), p.tokens[..., None], axis=-1)[..., 0].astype(
        p.upstream.dtype
    )


def run(p: Problem, with_bias: bool, f: Any) -> tuple[Any, Any]:
    """(log-probs, gradients of a weighted sum for hidden, head and bias)."""

    def total(*xs: Any) -> tuple[Any, Any]:
        logp = f(*xs)
        return jnp.sum(p.upstream * logp), logp

    wanted = (0, 1, 2) if with_bias else (0, 1)
    arguments = (p.hidden, p.weight, p.bias if with_bias else None)
    gradients, logp = jax.jit(jax.grad(total, argnums=wanted, has_aux=True))(*arguments)
    return logp, gradients


def from_all_logits(p: Problem, with_bias: bool, **options: Any) -> tuple[Any, Any]:
    """The naive code's."""
    return run(p, with_bias, lambda *xs: naive(p, *xs, **options))


def each(p: Problem, with_bias: bool, **options: Any) -> Iterator[tuple[Any, Any]]:
    """Of ours, then of the naive code."""

    def ours(hidden: Any, weight: Any, bias: Any) -> Any:
        return gspo_jax.token_logp(hidden, weight, p.tokens, bias=bias, **options)

    yield run(p, with_bias, ours)
    yield from_all_logits(p, with_bias, **options)


@pytest.fixture
def _small() -> Iterator[None]:
    """Several chunks and blocks even in small problems."""
    with small_pieces():
        yield


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    ("shape", "options", "with_bias"),
    [
        ((2, 5, 20), {"temperature": 0.7}, False),
        ((1, 7, 23), {"temperature": 1.3, "soft_cap": 3.0}, True),
        ((1, 7, 23), {"soft_cap": 2.0}, True),
        ((3, 1, 2), {}, False),
        ((1, 1, 7), {}, True),
        ((2, 0, 20), {}, False),
    ],
    ids=str,
)
def test_values_and_gradients_are_those_of_log_softmax(shape: Any, options: dict[str, Any], with_bias: bool) -> None:
    """Vocabularies that blocks of up to 5 rows divide, do not divide, and are larger than; no chunks of 4 tokens fit."""
    with jax.enable_x64(True):
        p = problem(shape)
        (logp, gradients), (expected, theirs) = each(p, with_bias, **options)
    assert_within(logp, expected, 1e-13 * 10)
    for ours, reference in zip(gradients, theirs, strict=True):
        assert_within(ours, reference, 1e-13 * 10)


@pytest.mark.usefixtures("_small")
def test_there_is_no_array_of_tokens_times_vocabulary() -> None:
    """And the search finds the one that naive code makes."""
    p = problem((4, 10, 60), np.float32)

    def ours(hidden: Any, weight: Any) -> Any:
        return jnp.sum(p.upstream * gspo_jax.token_logp(hidden, weight, p.tokens))

    def theirs(hidden: Any, weight: Any) -> Any:
        return jnp.sum(p.upstream * naive(p, hidden, weight, None))

    found = [largest_array(jax.grad(f, argnums=(0, 1)), p.hidden, p.weight) for f in (ours, theirs)]
    assert found[0] <= 60 * 6  # the head's own gradient
    assert found[1] >= 40 * 60


@pytest.mark.usefixtures("_small")
def test_low_precision_inputs_have_float32_log_probs() -> None:
    """As good as float32 is on the same numbers; gradients in the inputs' dtype, off by one rounding."""
    p = problem((3, 5, 23), np.float32)
    low = p._replace(**{k: getattr(p, k).astype(jnp.bfloat16) for k in ("hidden", "weight", "bias")})
    wide = low._replace(**{k: getattr(low, k).astype(jnp.float32) for k in ("hidden", "weight", "bias")})
    logp, gradients = next(each(low, True))
    expected, theirs = from_all_logits(wide, True)
    assert logp.dtype == jnp.float32
    assert_within(logp, expected, 64 * np.finfo(np.float32).eps * 10)
    for ours, reference in zip(gradients, theirs, strict=True):
        assert ours.dtype == jnp.bfloat16
        scale = float(jnp.max(jnp.abs(reference)))
        assert_within(ours.astype(jnp.float32), reference, 2.0**-8 * scale)


@pytest.mark.usefixtures("_small")
def test_tokens_without_weight_are_skipped() -> None:
    """NaN in whole chunks of them reaches nothing, forward or backward."""
    p = problem((1, 12, 20), np.float32)
    live = jnp.arange(12) < 4
    rows = jnp.where(live[:, None], p.hidden[0], jnp.nan)
    options = two_pass.Options()

    def total(hidden: Any, weight: Any) -> Any:
        head = two_pass.Head(weight, None)
        return jnp.sum(p.upstream[0] * two_pass.flat_scores(options, Wanted(), hidden, head, p.tokens[0], live)[0])

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(rows, p.weight)
    expected = jnp.sum((p.upstream * naive(p, p.hidden, p.weight, None))[0, :4])
    assert_within(value, expected, 1e-5)
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in gradients)
    assert not jnp.any(gradients[0][4:] != 0)
    assert jnp.all(jnp.any(gradients[0][:4] != 0, axis=1))


def test_under_scan_and_remat_nothing_changes() -> None:
    p = problem((4, 5, 20), np.float32)

    def total(weight: Any) -> Any:
        score = jax.checkpoint(lambda h, t: gspo_jax.token_logp(h, weight, t))

        def step(_: None, x: Any) -> tuple[None, Any]:
            return None, score(*x)

        _, logp = jax.lax.scan(step, None, (p.hidden, p.tokens))
        return jnp.sum(p.upstream * logp)

    expected = jax.jit(jax.grad(lambda w: jnp.sum(p.upstream * naive(p, p.hidden, w, None))))(p.weight)
    assert_within(jax.jit(jax.grad(total))(p.weight), expected, 1e-5)


def test_wide_token_ids_are_taken() -> None:
    with jax.enable_x64(True):
        p = problem((2, 5, 20))
        wide = gspo_jax.token_logp(p.hidden, p.weight, p.tokens.astype(jnp.int64))
        assert jnp.array_equal(wide, gspo_jax.token_logp(p.hidden, p.weight, p.tokens))


def test_ids_outside_the_vocabulary_have_no_probability() -> None:
    """Also those that 32 bits do not hold: they do not become some other token."""
    with jax.enable_x64(True):
        p = problem((1, 7, 23))
        strange = jnp.asarray([[0, -1, 23, 2**32 + 3, -(2**32) + 3, 2**31, 22]])
        logp = gspo_jax.token_logp(p.hidden, p.weight, strange)
        assert jnp.isneginf(logp).tolist() == [[False, True, True, True, True, True, False]]
        unsigned = gspo_jax.token_logp(p.hidden, p.weight, jnp.full((1, 7), 2**32 - 1, dtype=jnp.uint32))
        assert jnp.all(jnp.isneginf(unsigned))
