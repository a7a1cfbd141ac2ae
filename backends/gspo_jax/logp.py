"""Log-probabilities of the sampled tokens from hidden states and the LM head, without the [T, V] logits.

Forward scans chunks of tokens and keeps their log-sum-exps; backward scans blocks of the vocabulary, and the tokens inside:
a block of the head's gradient is then an output of the scan, written once, and not a carry, which XLA would hold twice.
Chunks whose tokens have no weight are skipped at run time, by lax.cond.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .head import Array, Head, Options, VocabularyAxis, check_head, first_row, mesh_axes, slope, tile, varying, wide

CHUNK_ELEMENTS = 2**23
"""Logits of a tile: 32 MiB of float32."""
LEAST_CHUNK = 16
"""Tokens of a tile, however many columns it has."""
BLOCKS = (1024, 8192)
"""Least and most rows of the head in a block of backward."""


def token_logp(
    hidden: Array,
    lm_head: Array,
    tokens: Array,
    *,
    bias: Array | None = None,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    vocabulary: VocabularyAxis | None = None,
) -> Array:
    """log π(token) = z[token] − log Σ_v exp z[v] with z = cap(lm_head · hidden + bias) / temperature, in nats.

    Args:
        hidden: [..., H] final hidden states, at the positions that predict `tokens`; any real floating dtype.
        lm_head: [V, H] the output embedding's weight.
        tokens: [...] integer token ids in [0, V). An id outside has log-prob −∞ or NaN: nothing can be raised under jit.
        bias: [V] of the output embedding, if it has one.
        temperature: the sampling temperature.
        soft_cap: the c of Gemma's c · tanh(z / c); None: the logits are not capped.
        vocabulary: inside shard_map, over which mesh axis the rows of `lm_head` are spread.

    Returns: [...] float32 (float64 for float64 inputs), differentiable once in reverse mode; gradients add up in float32 and
    come in the parameters' dtypes.

    Raises: TypeError for a wrong dtype, ValueError for a wrong shape, temperature or cap, naming the argument.

    >>> import jax.numpy as jnp
    >>> logp = token_logp(jnp.zeros((2, 5, 8)), jnp.ones((10, 8)), jnp.zeros((2, 5), dtype=jnp.int32))
    >>> logp.shape, bool(jnp.allclose(jnp.exp(logp), 0.1))
    ((2, 5), True)
    """
    head, options = Head(lm_head, bias), Options(temperature, soft_cap, vocabulary)
    check_head(hidden, head, tokens)
    rows, flat = hidden.reshape(-1, hidden.shape[-1]), tokens.reshape(-1).astype(jnp.int32)
    # Gradients are a rank's own inside; the transpose of this adds them up where an array was the same on several ranks.
    axes = mesh_axes(rows, head, flat, first_row(head, options) if vocabulary else ())
    rows, head = varying((rows, head), axes)
    return flat_logp(options, rows, head, flat, jnp.ones(flat.shape, dtype=bool)).reshape(tokens.shape)


class Chunks(NamedTuple):
    """Tokens in chunks of equal size, [n, C]: the last one filled up with dead ones."""

    rows: Array
    tokens: Array
    live: Array


def chunked(rows: Array, tokens: Array, live: Array, size: int) -> Chunks:
    """[T, ...] to [n, size, ...]."""
    missing = -len(tokens) % size
    padded = (jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) for x in (rows, tokens, live))
    return Chunks(*(x.reshape(-1, size, *x.shape[1:]) for x in padded))


def chunk_size(num_tokens: int, columns: int) -> int:
    """Tokens whose tile has about CHUNK_ELEMENTS entries."""
    return max(1, min(num_tokens, max(LEAST_CHUNK, CHUNK_ELEMENTS // max(1, columns))))


def block_size(vocabulary: int) -> int:
    """Rows of the head per step of backward: a divisor, so that nothing is padded, if there is a good one.

    >>> block_size(151936), block_size(32768), block_size(50257)
    (4748, 8192, 1733)
    """
    least, most = BLOCKS
    divisors = [b for b in range(min(most, vocabulary), least - 1, -1) if vocabulary % b == 0]
    return divisors[0] if divisors else min(most, vocabulary)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def flat_logp(options: Options, rows: Array, head: Head, tokens: Array, live: Array) -> Array:
    """[T] log-probs of [T, H] rows; 0 where not live, and such rows are not looked at."""
    return _forward(options, rows, head, tokens, live)[0]


def _forward(options: Options, rows: Array, head: Head, tokens: Array, live: Array) -> tuple[Array, Array]:
    """([T] log-probs, [T] log-sum-exps)."""
    kind, first, axes = wide(rows, head.weight), first_row(head, options), mesh_axes(rows, head)
    parts = chunked(rows, tokens, live, chunk_size(len(tokens), len(head.weight)))

    def scores(part: Chunks) -> tuple[Array, Array, Array]:
        z = tile(part.rows, head.weight, head.bias, first, options)
        best = jnp.max(z, axis=1, initial=-jnp.inf)
        total = jnp.sum(jnp.exp(z - jnp.where(best > -jnp.inf, best, 0.0)[:, None]), axis=1)
        column = part.tokens - first
        here = (column >= 0) & (column < len(head.weight))
        picked = jnp.take_along_axis(z, jnp.where(here, column, 0)[:, None], axis=1)[:, 0] if z.shape[1] else best
        return best, total, jnp.where(here, picked, 0.0)

    def nothing(part: Chunks) -> tuple[Array, Array, Array]:
        zeros = varying(jnp.zeros(part.rows.shape[:1], dtype=kind), axes)
        return zeros, zeros + 1.0, zeros

    def step(_: None, part: Chunks) -> tuple[None, tuple[Array, Array, Array]]:
        return None, lax.cond(jnp.any(part.live), scores, nothing, part)

    _, found = lax.scan(step, None, parts)
    best, total, picked = (x.reshape(-1)[: len(tokens)] for x in found)
    if options.axis is not None:
        local, best = best, lax.pmax(best, options.axis.name)
        total, picked = lax.psum((total * jnp.exp(local - best), picked), options.axis.name)
    lse = best + jnp.log(total)
    return jnp.where(live, picked - lse, 0.0), lse


def _forward_rule(
    options: Options, rows: Array, head: Head, tokens: Array, live: Array
) -> tuple[Array, tuple[Array, Head, Array, Array, Array]]:
    logp, lse = _forward(options, rows, head, tokens, live)
    return logp, (rows, head, tokens, live, lse)


def _backward_rule(options: Options, saved: Any, upstream: Array) -> tuple[Any, ...]:
    rows, head, tokens, live, lse = saved
    d_rows, d_head = head_gradients(options, rows, head, tokens, jnp.where(live, upstream, 0.0), lse)
    return d_rows, d_head, None, None


flat_logp.defvjp(_forward_rule, _backward_rule)


def head_gradients(options: Options, rows: Array, head: Head, tokens: Array, c: Array, lse: Array) -> tuple[Array, Head]:
    """Gradients of Σ c logp for rows [T, H] and head, in their dtypes, summed in float32."""
    kind, vocabulary, axes = wide(rows, head.weight), len(head.weight), mesh_axes(rows, head)
    size, first = block_size(vocabulary), first_row(head, options)
    # Dead tokens last: then whole chunks of them can be skipped.
    order = jnp.argsort(c == 0, stable=True)
    inverse = jnp.argsort(order, stable=True)
    parts = chunked(rows[order], tokens[order], c[order].astype(kind), chunk_size(len(tokens), size))
    sums = chunked(rows[order], tokens[order], lse[order], parts.tokens.shape[1]).live

    def block(d_rows: Array, start: Array, length: int) -> tuple[Array, Head]:
        weight = lax.dynamic_slice_in_dim(head.weight, start, length)
        bias = None if head.bias is None else lax.dynamic_slice_in_dim(head.bias, start, length)

        def add(total: Any, x: tuple[Chunks, Array]) -> tuple[Any, Array]:
            part, part_lse = x
            z = tile(part.rows, weight, bias, first + start, options)
            hit = (first + start + jnp.arange(length, dtype=jnp.int32))[None, :] == part.tokens[:, None]
            p = jnp.exp(z - part_lse[:, None])
            grad = part.live[:, None] * (jnp.where(hit, 1.0, 0.0).astype(kind) - p) * slope(z, options)
            operand = jnp.promote_types(part.rows.dtype, weight.dtype) if _on_accelerator() else kind
            g = grad.astype(operand)
            d_weight = lax.dot_general(g, part.rows.astype(operand), (((0,), (0,)), ((), ())), preferred_element_type=kind)
            d_part = lax.dot_general(g, weight.astype(operand), (((1,), (0,)), ((), ())), preferred_element_type=kind)
            return (total[0] + d_weight, total[1] + jnp.sum(grad, axis=0)), d_part

        def skip(total: Any, x: tuple[Chunks, Array]) -> tuple[Any, Array]:
            return total, varying(jnp.zeros(x[0].rows.shape, dtype=kind), axes)

        def step(total: Any, x: tuple[Chunks, Array]) -> tuple[Any, Array]:
            found: tuple[Any, Array] = lax.cond(jnp.any(x[0].live != 0), add, skip, total, x)
            return found

        zeros = varying((jnp.zeros(weight.shape, dtype=kind), jnp.zeros(length, dtype=kind)), axes)
        (d_weight, d_bias), d_parts = lax.scan(step, zeros, (parts, sums))
        own = Head(d_weight.astype(head.weight.dtype), None if bias is None else d_bias.astype(bias.dtype))
        return d_rows + d_parts, own

    d_rows = varying(jnp.zeros(parts.rows.shape, dtype=kind), axes)
    whole = vocabulary // size if vocabulary else 0
    starts = jnp.arange(whole, dtype=jnp.int32) * size
    d_rows, d_head = lax.scan(lambda total, start: block(total, start, size), d_rows, starts)
    d_head = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), d_head)
    if whole * size < vocabulary:
        d_rows, rest = block(d_rows, jnp.asarray(whole * size, dtype=starts.dtype), vocabulary - whole * size)
        d_head = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), d_head, rest)
    flat = d_rows.reshape(-1, rows.shape[1])[inverse]
    if options.axis is not None and options.axis.name not in axes:  # check_vma=False: nobody else adds them up
        flat = lax.psum(flat, options.axis.name)
    return flat.astype(rows.dtype), d_head


def _on_accelerator() -> bool:
    """Whether products of low-precision operands are worth having: CPUs are slow at them."""
    return jax.default_backend() != "cpu"
