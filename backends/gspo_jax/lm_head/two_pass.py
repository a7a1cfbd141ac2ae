"""The two-pass scheme: log-sum-exps first; when the weights are known, the gradient from recomputed tiles.

Forward loops over tiles of tokens and, inside, over blocks of the vocabulary, and keeps log-sum-exps. Backward loops over
blocks and, inside, over tiles, so that a block of the head's gradient is summed in float32 and written once, in the head's
dtype. Tokens without weight are sorted to the end, which no loop reaches; neighbouring tiles are processed together (runs.py).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .blocks import added, how_many, logits, picked, share, take
from .head import Array, Head, Options, common, first_row, mesh_axes, product, slope, varying, vocabulary_of, wide
from .per_token import Found, Kept, Wanted, Weights
from .runs import by_runs

TILE = (64, 1040)
"""Largest number of tokens in a tile, and of rows of the head in a block: no power of two, as in schemes.py."""
ACCELERATOR_TILE = (256, 16384)
"""The same on a GPU or TPU, where tiles need not fit into a cache: 128 MiB of float32 for a run of eight tiles."""


class Tiles(NamedTuple):
    """Tokens in n tiles of equal size: those with work first, the last tile filled up with others."""

    rows: Array
    """[n, tall, H]"""
    tokens: Array
    """[n, tall]"""
    live: Array
    """[n, tall] whether there is work; the hidden states of other tokens are not used."""
    count: Array
    """[] tiles with work."""


def tiled(x: Array, tall: int) -> Array:
    """[T, ...] to [n, tall, ...]."""
    return jnp.pad(x, [(0, -len(x) % tall)] + [(0, 0)] * (x.ndim - 1)).reshape(-1, tall, *x.shape[1:])


def tiles_of(rows: Array, tokens: Array, live: Array, tall: int) -> Tiles:
    """Tiles of tokens of which the live ones are the first."""
    count = (jnp.sum(live, dtype=jnp.int32) + (tall - 1)) // tall
    return Tiles(tiled(rows, tall), tiled(tokens, tall), tiled(live, tall), count)


def several(x: Array, size: int, j: Array) -> Array:
    """[size · tall, ...] of [n, tall, ...]: tiles j, j + 1, …"""
    return lax.dynamic_slice_in_dim(x, j, size).reshape(-1, *x.shape[2:])


def tile_of(num_tokens: int, vocabulary: int) -> tuple[int, int]:
    """(tokens of a tile, rows of the head in a block); blocks are about equal.

    >>> tile_of(1000, 151936), tile_of(10, 100)
    ((64, 1034), (10, 100))
    """
    tall, size = ACCELERATOR_TILE if _on_accelerator() else TILE
    return min(tall, num_tokens), -(-vocabulary // max(1, how_many(vocabulary, size)))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def flat_scores(options: Options, wanted: Wanted, rows: Array, head: Head, tokens: Array, live: Array | None) -> Found:
    """Of [T, H] rows; what is not wanted is None. 0 where not live, and such rows are not used. None: all rows are live."""
    return _forward(options, wanted, rows, head, tokens, live)[0]


def _forward(
    options: Options, wanted: Wanted, rows: Array, head: Head, tokens: Array, live: Array | None
) -> tuple[Found, Kept]:
    cut = tile_of(len(tokens), len(head.weight))
    if live is None:
        logp, lse, mean, squares = _scores(options, cut, wanted, rows, head, tokens, jnp.ones(tokens.shape, dtype=bool))
        return Found(logp, None if mean is None else lse - mean, squares), Kept(lse, mean)
    order, inverse = dead_last(live)
    found = _scores(options, cut, wanted, rows[order], head, tokens[order], live[order])
    logp, lse, mean, squares = jax.tree.map(lambda x: x[inverse], found)
    seen = Found(logp, None if mean is None else lse - mean, squares)
    return jax.tree.map(lambda x: jnp.where(live, x, 0.0), seen), Kept(lse, mean)


def dead_last(live: Array) -> tuple[Array, Array]:
    """An order with the live tokens first, so that dead tokens are in the last tiles, and its inverse."""
    order: Array = jnp.argsort(~live, stable=True)
    inverse: Array = jnp.argsort(order, stable=True)
    return order, inverse


@partial(jax.jit, static_argnums=(0, 1, 2))
def _scores(
    options: Options, cut: tuple[int, int], wanted: Wanted, rows: Array, head: Head, tokens: Array, live: Array
) -> tuple[Array, Array, Array | None, Array | None]:
    """([T] log-probs, log-sum-exps, mean logits, Σ π² or None), the live tokens first; the numbers of others are arbitrary."""
    kind, first, axes = wide(rows, head.weight), first_row(head, options), mesh_axes(rows, head)
    (tall, size), blocks = cut, how_many(len(head.weight), cut[1])
    if not len(tokens):
        nothing: Array = varying(jnp.zeros(0, dtype=kind), axes)
        return nothing, nothing, nothing if wanted.entropy else None, nothing if wanted.squares else None
    x = tiles_of(rows, tokens - first, live, tall)

    def run(many: int, j: Array, found: tuple[Array, ...]) -> tuple[Array, ...]:
        states, places = several(x.rows, many, j), several(x.tokens, many, j)
        states = jnp.where(several(x.live, many, j)[:, None], states, 0.0)

        def block(v: Array, seen: tuple[Array, ...]) -> tuple[Array, ...]:
            part, (best, total, hits, weighted, squares) = take(head, size, v), seen
            z = logits(options, head, part, states, first)
            # Any shift gives the same log-sum-exp: held constant, and pmax has no derivative in JAX.
            most = jnp.maximum(best, jnp.max(lax.stop_gradient(z), axis=1))
            shift = jnp.where(most > -jnp.inf, most, 0.0)
            scale, e = jnp.exp(best - shift), jnp.exp(z - shift[:, None])
            total = total * scale + jnp.sum(e, axis=1)
            if wanted.entropy:
                weighted = share(scale, weighted) + jnp.sum(e * jnp.where(z > -jnp.inf, z, 0.0), axis=1)
            if wanted.squares:
                squares = squares * scale * scale + jnp.sum(e * e, axis=1)
            return most, total, picked(z, part, places, hits), weighted, squares

        sums = jnp.zeros(len(places), dtype=kind)
        least = jnp.full(len(places), -jnp.inf, dtype=kind)
        nothing = (least, sums, sums, sums if wanted.entropy else None, sums if wanted.squares else None)
        seen = lax.fori_loop(jnp.int32(0), jnp.int32(blocks), block, varying(nothing, axes)) if blocks else nothing
        put = partial(lax.dynamic_update_slice_in_dim, start_index=j, axis=0)
        done: tuple[Any, ...] = jax.tree.map(lambda a, b: put(a, b.reshape(many, tall)), found, seen)
        return done

    zeros = jnp.zeros(x.tokens.shape, dtype=kind)
    # Totals of dead tokens are 1: a log of 0 would be −∞ and its derivative NaN.
    start = varying((zeros, zeros + 1.0, zeros, zeros if wanted.entropy else None, zeros if wanted.squares else None), axes)
    found = by_runs(jnp.int32(0), x.count, len(x.tokens), None, run, start)
    best, total, hits, weighted, squares = jax.tree.map(lambda a: a.reshape(-1)[: len(tokens)], found)
    if options.axis is not None:
        local, best = best, lax.pmax(best, options.axis.name)
        scale = jnp.exp(local - best)
        weighted = None if weighted is None else share(scale, weighted)
        squares = None if squares is None else squares * scale * scale
        total, hits, weighted, squares = lax.psum((total * scale, hits, weighted, squares), options.axis.name)
    lse = best + jnp.log(total)
    known = (tokens >= 0) & (tokens < vocabulary_of(head, options))
    mean = None if weighted is None else weighted / total
    return jnp.where(known, hits, -jnp.inf) - lse, lse, mean, None if squares is None else squares / (total * total)


def _forward_rule(
    options: Options, wanted: Wanted, rows: Array, head: Head, tokens: Array, live: Array | None
) -> tuple[Found, tuple[Any, ...]]:
    scores, kept = _forward(options, wanted, rows, head, tokens, live)
    return scores, (rows, head, tokens, live, *kept)


def _backward_rule(options: Options, wanted: Wanted, saved: Any, found: Found) -> tuple[Any, ...]:
    rows, head, tokens, live, lse, mean = saved
    upstream, mean = (found.logp, found.entropy if wanted.moving else None), mean if wanted.moving else None
    if options.axis is not None and options.axis.name not in mesh_axes(rows, head):
        # check_vma=False: the psums of forward are transposed to psums, as JAX does with every other one.
        upstream = lax.psum(upstream, options.axis.name)
    c, e = (x if x is None or live is None else jnp.where(live, x, 0.0) for x in upstream)
    return (*head_gradients(options, rows, head, tokens, Weights(c, lse, e, mean)), None, None)


flat_scores.defvjp(_forward_rule, _backward_rule)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def head_gradients(options: Options, rows: Array, head: Head, tokens: Array, weights: Weights) -> tuple[Array, Head]:
    """Gradients of Σ c logp + Σ e entropy for rows [T, H] and head, in their dtypes, summed in float32."""
    return _live_gradients(options, rows, head, tokens, weights)


def _live_gradients(options: Options, rows: Array, head: Head, tokens: Array, weights: Weights) -> tuple[Array, Head]:
    order, inverse = dead_last(weights.live)
    cut = tile_of(len(tokens), len(head.weight))
    kind = wide(rows, head.weight)
    first = Weights(*(None if x is None else x[order].astype(kind) for x in weights))
    flat, d_head = _sorted_gradients(options, cut, rows[order], head, tokens[order], first)
    return flat[inverse].astype(rows.dtype), d_head


@head_gradients.defjvp
def _head_gradients_jvp(options: Options, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """G(c, e) is linear in c and e: dG = G(dc, de) + the derivative of G at constant c and e.

    JAX's own derivative would lose G(dc, de) of tokens whose c and e are 0 at this point, since these are skipped: those of a
    KL term, for example, where the policy agrees with the reference.
    """
    rows, head, tokens, weights = primals
    d_rows, d_head, _, d_weights = tangents

    def at_constant_weights(rows: Array, head: Head, lse: Array, mean: Array | None) -> tuple[Array, Head]:
        return _live_gradients(options, rows, head, tokens, weights._replace(lse=lse, mean=mean))

    inputs, moves = (rows, head, weights.lse, weights.mean), (d_rows, d_head, d_weights.lse, d_weights.mean)
    gradients, moved = jax.jvp(at_constant_weights, inputs, moves)
    more = head_gradients(options, rows, head, tokens, weights._replace(c=d_weights.c, e=d_weights.e))
    return gradients, jax.tree.map(jnp.add, moved, more)


@partial(jax.jit, static_argnums=(0, 1))
def _sorted_gradients(
    options: Options, cut: tuple[int, int], rows: Array, head: Head, tokens: Array, weights: Weights
) -> tuple[Array, Head]:
    """`head_gradients` of tokens of which the live ones are first; the gradient of the rows [T, H] stays in float32."""
    kind, first, axes = wide(rows, head.weight), first_row(head, options), mesh_axes(rows, head)
    (tall, size), blocks = cut, how_many(len(head.weight), cut[1])
    empty: tuple[Array, Head] = varying((jnp.zeros(rows.shape, dtype=kind), jax.tree.map(jnp.zeros_like, head)), axes)
    if not len(tokens) or not blocks:
        return empty
    operand = common(rows, head.weight) if _on_accelerator() else kind
    units = _units(weights) if operand == jnp.float16 else None
    if units is not None:
        weights = weights._replace(c=weights.c / units, e=None if weights.e is None else weights.e / units)
    x, tiles = tiles_of(rows, tokens - first, weights.live, tall), jax.tree.map(lambda a: tiled(a, tall), weights)
    most = None if units is None else jnp.max(jnp.where(weights.live, units, 0.0))
    shares = None if units is None else tiled(jnp.where(weights.live, units / most, 0.0), tall)

    def block(v: Array, done: tuple[Array, Head]) -> tuple[Array, Head]:
        part, (d_rows, d_head) = take(head, size, v), done
        ids = part.start + jnp.arange(size, dtype=jnp.int32)

        def run(many: int, j: Array, total: tuple[Array, Head]) -> tuple[Array, Head]:
            d_rows, (d_weight, d_bias) = total
            live, at = several(x.live, many, j), jax.tree.map(lambda a: several(a, many, j), tiles)
            # Of a token without weight nothing is used: not its hidden state, log-sum-exp or mean, which may be NaN.
            states = jnp.where(live[:, None], several(x.rows, many, j), 0.0)
            z = logits(options, head, part, states, first)
            hit = (ids[None, :] == several(x.tokens, many, j)[:, None]) & (ids >= part.own)[None, :]
            p = jnp.exp(z - jnp.where(live, at.lse, jnp.inf)[:, None])
            factor = at.c[:, None] * (jnp.where(hit, 1.0, 0.0).astype(kind) - p)
            if at.e is not None:
                mean = jnp.where(live, at.mean, 0.0)[:, None]
                factor = factor - at.e[:, None] * p * (jnp.where(z > -jnp.inf, z, mean) - mean)
            grad = factor * slope(z, options)
            # Computed once: XLA would fuse it into the products and compute it again for each of their tiles.
            g = lax.optimization_barrier(grad.astype(operand))
            d_rows = added(d_rows, j, product(g, part.weight.astype(operand), (1, 0)).reshape(many, tall, -1))
            if shares is not None:
                share = several(shares, many, j)[:, None]
                states, grad = states.astype(kind) * share, grad * share
            d_bias = None if d_bias is None else d_bias + jnp.sum(grad, axis=0)
            return d_rows, Head(d_weight + product(g, states.astype(operand), (0, 0)), d_bias)

        zeros = jax.tree.map(lambda a: jnp.zeros((size, *a.shape[1:]), dtype=kind), head)
        d_rows, found = by_runs(jnp.int32(0), x.count, len(x.tokens), None, run, (d_rows, varying(zeros, axes)))
        found = found if most is None else jax.tree.map(lambda a: a * most, found)
        return d_rows, jax.tree.map(lambda a, b: added(a, part.start, b.astype(a.dtype)), d_head, found)

    start: tuple[Array, Head] = (varying(jnp.zeros(x.rows.shape, dtype=kind), axes), empty[1])
    d_rows, d_head = lax.fori_loop(jnp.int32(0), jnp.int32(blocks), block, start)
    d_rows = d_rows.reshape(-1, rows.shape[1])[: len(tokens)]
    return d_rows if units is None else d_rows * units[:, None], d_head


def _units(weights: Weights) -> Array:
    """[T] the power of two above a token's weights, for float16 tiles: 1/(N·|y|) times a probability would underflow there.

    One for each token: a short response's weights are a thousand times a long one's. 1 for a weight that is not finite.
    """
    size = jnp.abs(weights.c) if weights.e is None else jnp.maximum(jnp.abs(weights.c), jnp.abs(weights.e))
    ordinary = (size > 0) & (size < jnp.inf)
    return jnp.where(ordinary, jnp.ldexp(jnp.ones_like(size), jnp.frexp(jnp.where(ordinary, size, 1.0))[1]), 1.0)


def _on_accelerator() -> bool:
    """Whether the device is a GPU or TPU. CPUs are slow at products of low-precision operands."""
    return jax.default_backend() != "cpu"
