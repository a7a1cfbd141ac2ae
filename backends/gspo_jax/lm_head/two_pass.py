"""The two-pass scheme: log-sum-exps first, the gradient from recomputed tiles when its weights are known.

Forward goes through tiles of tokens and, inside, blocks of the vocabulary, and keeps log-sum-exps; backward goes through blocks
and, inside, tiles, so that a block of the head's gradient is summed in float32 and written once, in the head's dtype. Tokens
without weight are sorted to the end, where no loop goes; neighbouring tiles are done together (runs.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .blocks import added, how_many, logits, picked, take
from .head import Array, Head, Options, first_row, mesh_axes, product, slope, varying, vocabulary_of, wide
from .runs import by_runs

TILE = (64, 1040)
"""Most tokens of a tile, of which several go together; most rows of the head in a block: no power of two, as in schemes.py."""
ACCELERATOR_TILE = (256, 16384)
"""The same where no cache has to hold them: 128 MiB of float32 for eight tiles together."""


class Tiles(NamedTuple):
    """Tokens in n tiles of equal size: those to be done first, the last tile filled up with others."""

    rows: Array
    """[n, tall, H]"""
    tokens: Array
    """[n, tall]"""
    weight: Array
    """[n, tall] 0 (or False): not to be done, whatever stands there."""
    count: Array
    """[] tiles with something to do."""


def tiled(x: Array, tall: int) -> Array:
    """[T, ...] to [n, tall, ...]."""
    return jnp.pad(x, [(0, -len(x) % tall)] + [(0, 0)] * (x.ndim - 1)).reshape(-1, tall, *x.shape[1:])


def tiles_of(rows: Array, tokens: Array, weight: Array, tall: int) -> Tiles:
    """The tokens with a weight are the first."""
    count = (jnp.sum(weight.astype(bool), dtype=jnp.int32) + (tall - 1)) // tall
    return Tiles(tiled(rows, tall), tiled(tokens, tall), tiled(weight, tall), count)


def several(x: Array, size: int, j: Array) -> Array:
    """[size · tall, ...] of [n, tall, ...]: tiles j, j + 1, …"""
    return lax.dynamic_slice_in_dim(x, j, size).reshape(-1, *x.shape[2:])


def tile_of(num_tokens: int, vocabulary: int) -> tuple[int, int]:
    """Tokens and rows of the head; blocks are about equal.

    >>> tile_of(1000, 151936), tile_of(10, 100)
    ((64, 1034), (10, 100))
    """
    tall, size = ACCELERATOR_TILE if _on_accelerator() else TILE
    return min(tall, num_tokens), -(-vocabulary // max(1, how_many(vocabulary, size)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def flat_logp(options: Options, rows: Array, head: Head, tokens: Array, live: Array | None) -> Array:
    """[T] log-probs of [T, H] rows; 0 where not live, and such rows are not looked at. None: all are."""
    return _forward(options, rows, head, tokens, live)[0]


def _forward(options: Options, rows: Array, head: Head, tokens: Array, live: Array | None) -> tuple[Array, Array]:
    """([T] log-probs, [T] log-sum-exps)."""
    cut = tile_of(len(tokens), len(head.weight))
    if live is None:
        found: tuple[Array, Array] = _scores(options, cut, rows, head, tokens, jnp.ones(tokens.shape, dtype=bool))
        return found
    order, inverse = dead_last(live)
    logp, lse = _scores(options, cut, rows[order], head, tokens[order], live[order])
    return jnp.where(live, logp[inverse], 0.0), lse[inverse]


def dead_last(live: Array) -> tuple[Array, Array]:
    """An order with the live tokens first, and its inverse: then the dead ones fill the last tiles."""
    order: Array = jnp.argsort(~live, stable=True)
    inverse: Array = jnp.argsort(order, stable=True)
    return order, inverse


@partial(jax.jit, static_argnums=(0, 1))
def _scores(options: Options, cut: tuple[int, int], rows: Array, head: Head, tokens: Array, live: Array) -> tuple[Array, Array]:
    """([T] log-probs, [T] log-sum-exps), the live ones first; of others, whatever."""
    kind, first, axes = wide(rows, head.weight), first_row(head, options), mesh_axes(rows, head)
    (tall, size), blocks = cut, how_many(len(head.weight), cut[1])
    if not len(tokens):
        return (varying(jnp.zeros(0, dtype=kind), axes),) * 2
    x = tiles_of(rows, tokens - first, live, tall)

    def run(many: int, j: Array, found: tuple[Array, ...]) -> tuple[Array, ...]:
        states, places = several(x.rows, many, j), several(x.tokens, many, j)
        states = jnp.where(several(x.weight, many, j)[:, None], states, 0.0)

        def block(v: Array, seen: tuple[Array, ...]) -> tuple[Array, ...]:
            part, (best, total, hits) = take(head, size, v), seen
            z = logits(options, head, part, states, first)
            # Any shift gives the same log-sum-exp: held constant, and pmax has no derivative in JAX.
            most = jnp.maximum(best, jnp.max(lax.stop_gradient(z), axis=1))
            shift = jnp.where(most > -jnp.inf, most, 0.0)
            total = total * jnp.exp(best - shift) + jnp.sum(jnp.exp(z - shift[:, None]), axis=1)
            return most, total, picked(z, part, places, hits)

        nothing = (jnp.full(len(places), -jnp.inf, dtype=kind), *[jnp.zeros(len(places), dtype=kind)] * 2)
        seen = lax.fori_loop(jnp.int32(0), jnp.int32(blocks), block, varying(nothing, axes)) if blocks else nothing
        pairs = zip(found, seen, strict=True)
        return tuple(lax.dynamic_update_slice_in_dim(a, b.reshape(many, tall), j, 0) for a, b in pairs)

    zeros = jnp.zeros(x.tokens.shape, dtype=kind)
    start = varying((zeros, zeros + 1.0, zeros), axes)  # a log of 0 would be −∞, and its derivative NaN, where nobody looks
    found = by_runs(jnp.int32(0), x.count, len(x.tokens), None, run, start)
    best, total, hits = (a.reshape(-1)[: len(tokens)] for a in found)
    if options.axis is not None:
        local, best = best, lax.pmax(best, options.axis.name)
        total, hits = lax.psum((total * jnp.exp(local - best), hits), options.axis.name)
    lse = best + jnp.log(total)
    known = (tokens >= 0) & (tokens < vocabulary_of(head, options))
    return jnp.where(known, hits, -jnp.inf) - lse, lse


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
    order, inverse = dead_last(c != 0)
    cut = tile_of(len(tokens), len(head.weight))
    weights = c[order].astype(wide(rows, head.weight))
    flat, d_head = _sorted_gradients(options, cut, rows[order], head, tokens[order], weights, lse[order])
    return flat[inverse].astype(rows.dtype), d_head


@partial(jax.jit, static_argnums=(0, 1))
def _sorted_gradients(
    options: Options, cut: tuple[int, int], rows: Array, head: Head, tokens: Array, c: Array, lse: Array
) -> tuple[Array, Head]:
    """The same with the weightless rows last, and those of the rows [T, H] in float32."""
    kind, first, axes = wide(rows, head.weight), first_row(head, options), mesh_axes(rows, head)
    (tall, size), blocks = cut, how_many(len(head.weight), cut[1])
    empty: tuple[Array, Head] = varying((jnp.zeros(rows.shape, dtype=kind), jax.tree.map(jnp.zeros_like, head)), axes)
    if not len(tokens) or not blocks:
        return empty
    x, sums = tiles_of(rows, tokens - first, c, tall), tiled(lse, tall)
    operand = jnp.promote_types(rows.dtype, head.weight.dtype) if _on_accelerator() else kind

    def block(v: Array, done: tuple[Array, Head]) -> tuple[Array, Head]:
        part, (d_rows, d_head) = take(head, size, v), done
        ids = part.start + jnp.arange(size, dtype=jnp.int32)

        def run(many: int, j: Array, total: tuple[Array, Head]) -> tuple[Array, Head]:
            d_rows, (d_weight, d_bias) = total
            weight = several(x.weight, many, j)
            # Whatever stands in a row without weight, it and its log-sum-exp are not looked at.
            states = jnp.where((weight != 0)[:, None], several(x.rows, many, j), 0.0)
            z = logits(options, head, part, states, first)
            hit = (ids[None, :] == several(x.tokens, many, j)[:, None]) & (ids >= part.own)[None, :]
            p = jnp.exp(z - jnp.where(weight != 0, several(sums, many, j), jnp.inf)[:, None])
            grad = weight[:, None] * (jnp.where(hit, 1.0, 0.0).astype(kind) - p) * slope(z, options)
            # Made once: fused into the products, it would be made again for each of their tiles.
            g = lax.optimization_barrier(grad.astype(operand))
            d_part = product(g, part.weight.astype(operand), (1, 0))
            d_rows = added(d_rows, j, d_part.reshape(many, tall, -1))
            d_bias = None if d_bias is None else d_bias + jnp.sum(grad, axis=0)
            return d_rows, Head(d_weight + product(g, states.astype(operand), (0, 0)), d_bias)

        zeros = jax.tree.map(lambda a: jnp.zeros((size, *a.shape[1:]), dtype=kind), head)
        d_rows, found = by_runs(jnp.int32(0), x.count, len(x.tokens), None, run, (d_rows, varying(zeros, axes)))
        return d_rows, jax.tree.map(lambda a, b: added(a, part.start, b.astype(a.dtype)), d_head, found)

    start: tuple[Array, Head] = (varying(jnp.zeros(x.rows.shape, dtype=kind), axes), empty[1])
    d_rows, d_head = lax.fori_loop(jnp.int32(0), jnp.int32(blocks), block, start)
    return d_rows.reshape(-1, rows.shape[1])[: len(tokens)], d_head


def _on_accelerator() -> bool:
    """Whether products of low-precision operands are worth having: CPUs are slow at them."""
    return jax.default_backend() != "cpu"
