"""The two-pass scheme: log-sum-exps first, the gradient from recomputed tiles when its weights are known.

Forward scans chunks of tokens and keeps their log-sum-exps; backward scans blocks of the vocabulary, and the tokens inside:
a block of the head's gradient is then an output of the scan, written once, and not a carry, which XLA would hold twice.
Tokens without weight are sorted to the end, where whole chunks of them are skipped at run time, by lax.cond.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .head import Array, Head, Options, first_row, mesh_axes, slope, tile, varying, vocabulary_of, wide

CHUNK_ELEMENTS = 2**23
"""Logits of a tile: 32 MiB of float32."""
LEAST_CHUNK, MOST_CHUNK = 16, 256
"""Tokens of a tile, however many columns it has: what is skipped is skipped by whole chunks."""
BLOCKS = (1024, 8192)
"""Least and most rows of the head in a block of backward."""


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
    return max(1, min(num_tokens, MOST_CHUNK, max(LEAST_CHUNK, CHUNK_ELEMENTS // max(1, columns))))


def block_size(vocabulary: int) -> int:
    """Rows of the head per step of backward: a divisor, so that nothing is padded, if there is a good one.

    >>> block_size(151936), block_size(32768), block_size(50257)
    (4748, 8192, 1733)
    """
    least, most = BLOCKS
    divisors = [b for b in range(min(most, vocabulary), least - 1, -1) if vocabulary % b == 0]
    return divisors[0] if divisors else min(most, vocabulary)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def flat_logp(options: Options, rows: Array, head: Head, tokens: Array, live: Array | None) -> Array:
    """[T] log-probs of [T, H] rows; 0 where not live, and such rows are not looked at. None: all are."""
    return _forward(options, rows, head, tokens, live)[0]


def _forward(options: Options, rows: Array, head: Head, tokens: Array, live: Array | None) -> tuple[Array, Array]:
    """([T] log-probs, [T] log-sum-exps)."""
    size = chunk_size(len(tokens), len(head.weight))
    if live is None:
        found: tuple[Array, Array] = _scores(options, size, rows, head, tokens, jnp.ones(tokens.shape, dtype=bool))
        return found
    order, inverse = dead_last(live)
    logp, lse = _scores(options, size, rows[order], head, tokens[order], live[order])
    return jnp.where(live, logp[inverse], 0.0), lse[inverse]


def dead_last(live: Array) -> tuple[Array, Array]:
    """An order with the live tokens first, and its inverse: then whole chunks of dead ones can be skipped."""
    order: Array = jnp.argsort(~live, stable=True)
    inverse: Array = jnp.argsort(order, stable=True)
    return order, inverse


@partial(jax.jit, static_argnums=(0, 1))
def _scores(options: Options, size: int, rows: Array, head: Head, tokens: Array, live: Array) -> tuple[Array, Array]:
    """([T] log-probs, [T] log-sum-exps), the tokens in their order, `size` at a time."""
    kind, first, axes = wide(rows, head.weight), first_row(head, options), mesh_axes(rows, head)
    parts = chunked(rows, tokens, live, size)

    def scores(part: Chunks) -> tuple[Array, Array, Array]:
        z = tile(jnp.where(part.live[:, None], part.rows, 0.0), head.weight, head.bias, first, options)
        # Any shift gives the same log-sum-exp: held constant, and pmax has no derivative in JAX.
        best = jnp.max(lax.stop_gradient(z), axis=1, initial=-jnp.inf)
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
    known = (tokens >= 0) & (tokens < vocabulary_of(head, options))
    return jnp.where(known, picked, -jnp.inf) - lse, lse


def _forward_rule(
    options: Options, rows: Array, head: Head, tokens: Array, live: Array | None
) -> tuple[Array, tuple[Array, Head, Array, Array | None, Array]]:
    logp, lse = _forward(options, rows, head, tokens, live)
    return logp, (rows, head, tokens, live, lse)


def _backward_rule(options: Options, saved: Any, upstream: Array) -> tuple[Any, ...]:
    rows, head, tokens, live, lse = saved
    if options.axis is not None and options.axis.name not in mesh_axes(rows, head):
        # check_vma=False: the psums of forward are transposed to psums, as JAX does with every other one.
        upstream = lax.psum(upstream, options.axis.name)
    c = upstream if live is None else jnp.where(live, upstream, 0.0)
    return (*head_gradients(options, rows, head, tokens, c, lse), None, None)


flat_logp.defvjp(_forward_rule, _backward_rule)


def head_gradients(options: Options, rows: Array, head: Head, tokens: Array, c: Array, lse: Array) -> tuple[Array, Head]:
    """Gradients of Σ c logp for rows [T, H] and head, in their dtypes, summed in float32."""
    size = block_size(len(head.weight))
    order, inverse = dead_last(c != 0)
    weights = c[order].astype(wide(rows, head.weight))
    tile_shape = (chunk_size(len(tokens), size), size)
    flat, d_head = _sorted_gradients(options, tile_shape, rows[order], head, tokens[order], weights, lse[order])
    return flat[inverse].astype(rows.dtype), d_head


@partial(jax.jit, static_argnums=(0, 1))
def _sorted_gradients(
    options: Options, tile_shape: tuple[int, int], rows: Array, head: Head, tokens: Array, c: Array, lse: Array
) -> tuple[Array, Head]:
    """The same with the weightless rows last, and those of the rows [T, H] in float32."""
    kind, vocabulary, axes = wide(rows, head.weight), len(head.weight), mesh_axes(rows, head)
    (tall, size), first = tile_shape, first_row(head, options)
    parts = chunked(rows, tokens, c, tall)
    sums = chunked(rows, tokens, lse, tall).live

    def block(d_rows: Array, start: Array, length: int) -> tuple[Array, Head]:
        weight = lax.dynamic_slice_in_dim(head.weight, start, length)
        bias = None if head.bias is None else lax.dynamic_slice_in_dim(head.bias, start, length)

        def add(total: Any, x: tuple[Chunks, Array]) -> tuple[Any, Array]:
            part, part_lse = x
            # Whatever stands in a row without weight, it and its log-sum-exp are not looked at.
            live, part_rows = part.live != 0, jnp.where((part.live != 0)[:, None], part.rows, 0.0)
            z = tile(part_rows, weight, bias, first + start, options)
            hit = (first + start + jnp.arange(length, dtype=jnp.int32))[None, :] == part.tokens[:, None]
            p = jnp.exp(z - jnp.where(live, part_lse, jnp.inf)[:, None])
            grad = part.live[:, None] * (jnp.where(hit, 1.0, 0.0).astype(kind) - p) * slope(z, options)
            operand = jnp.promote_types(part.rows.dtype, weight.dtype) if _on_accelerator() else kind
            g = grad.astype(operand)
            d_weight = lax.dot_general(g, part_rows.astype(operand), (((0,), (0,)), ((), ())), preferred_element_type=kind)
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
    return d_rows.reshape(-1, rows.shape[1])[: len(tokens)], d_head


def _on_accelerator() -> bool:
    """Whether products of low-precision operands are worth having: CPUs are slow at them."""
    return jax.default_backend() != "cpu"
