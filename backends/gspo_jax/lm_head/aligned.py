"""The aligned scheme: gradients are computed while the exponentials of the logits are in memory. 3 matrix products, not 4.

The weights of a sequence are known after its last token. Tokens are sorted by sequence and cut into tiles of equal size; a
ring of slots holds the exponentials E = exp(z − best) of the latest tiles. The forward step fills the ring. The backward step
then processes every tile whose sequences are complete, and the other tiles move to the beginning of the ring:

    ∂/∂W = Σ_t c_t h_t at row y_t − Eᵀ (s · h)     ∂/∂h_t = c_t w[y_t] − s_t E_t W     with s = c exp(best − lse)

so that weights scale the small operands and E is used unchanged. `best` is the maximum per row and block of the vocabulary.
The first tiles of a sequence that is too long for the ring are overwritten and have to be computed again, with 4 products.
Shapes are static, but the number of tiles to process is not: tokens without an advantage are sorted to the end, which no loop
reaches. Neighbouring tiles are processed together (runs.py), and skipped together if none of them has a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .blocks import added, how_many, logits, picked, share, take
from .head import Array, Head, Options, mesh_axes, product, varying, wide
from .runs import Carry, by_runs

Weigh = Callable[[Array, Array], Array]
"""([n, tall] log-probs, [n, 1] whether they have been computed) ↦ [n, tall] weights c."""


class Cut(NamedTuple):
    """Sizes of tiles and blocks; static."""

    tall: int
    """Tokens per tile."""
    slots: int
    """Tiles that the ring holds."""
    block: int
    """Rows of the head per block of the vocabulary."""
    skips: bool
    """Whether backward skips tiles without a weight. Not with a KL term: where the policy agrees with the reference, its
    weights are 0 but not constant, and Hessian-vector products would lose their derivative."""
    entropy: bool
    """Whether entropies are wanted."""


class Work(NamedTuple):
    """Tokens in n tiles, sorted by sequence; tokens without work (dead ones) are last."""

    rows: Array
    """[n, tall, H] hidden states, 0 in dead ones."""
    tokens: Array
    """[n, tall]"""
    last: Array
    """[n] the number of tiles after which the weights of this tile are known."""
    count: Array
    """[] tiles with a live token."""


class Seen(NamedTuple):
    """Results of the forward step, per block of the vocabulary."""

    ring: Array
    """[blocks, slots · tall, block] E."""
    best: Array
    """[blocks, n, tall] the largest logit."""
    total: Array
    """[blocks, n, tall] Σ E."""
    picked: Array
    """[n, tall] the tokens' logits."""
    weighted: Array | None
    """[blocks, n, tall] Σ E z; None if entropies are not wanted."""


class Sums(NamedTuple):
    """Sums of the backward step: −Σ s E W, −Σ Eᵀ s h, −Σ Eᵀ s."""

    rows: Array
    """[n, tall, H]"""
    weight: Array
    """[V, H]"""
    bias: Array
    """[V]"""


def run(options: Options, cut: Cut, head: Head, work: Work, weigh: Weigh) -> tuple[Array, Array | None, Array, Head]:
    """(log-probs [n, tall], entropies, gradients of the rows [n, tall, H], those of the head), in the accumulator's dtype."""
    kind, (n, tall, _), vocabulary = wide(work.rows, head.weight), work.rows.shape, len(head.weight)
    blocks, index = how_many(vocabulary, cut.block), jnp.arange(n, dtype=jnp.int32)

    def scores(x: Seen, tiles: Array) -> tuple[Array, Array, Array]:
        """(log-probs, log-sum-exps, weights) after the first `tiles` tiles."""
        known = (index < tiles)[:, None]
        lse = jax.nn.logsumexp(x.best, axis=0, b=x.total)
        logp = jnp.where(known, x.picked - lse, 0.0)
        return logp, lse, weigh(logp, known) / options.temperature

    def step(state: tuple[Array, Array, Array, Seen, Sums]) -> tuple[Array, Array, Array, Seen, Sums]:
        first, done, before, x, sums = state
        now = jnp.minimum(work.count, jnp.maximum(done + cut.slots, work.last[done]))
        x = _forward(options, cut, head, work, _moved(cut, x, (first, done, before)), (done, before, now))
        _, lse, c = scores(x, now)
        ready = jnp.sum((work.last <= now) & (index < work.count), dtype=jnp.int32)
        return done, ready, now, x, _backward(options, cut, head, work, x, sums, (done, ready, now), c, lse)

    x = Seen(
        jnp.zeros((blocks, cut.slots * tall, cut.block), dtype=kind),
        jnp.zeros((blocks, n, tall), dtype=kind),
        jnp.zeros((blocks, n, tall), dtype=kind),
        jnp.full((n, tall), -jnp.inf, dtype=kind),
        jnp.zeros((blocks, n, tall), dtype=kind) if cut.entropy else None,
    )
    sums = Sums(*(jnp.zeros(shape, dtype=kind) for shape in (work.rows.shape, head.weight.shape, (vocabulary,))))
    start = varying((jnp.int32(0), jnp.int32(0), jnp.int32(0), x, sums), mesh_axes(work, head))
    _, _, _, x, sums = lax.while_loop(lambda state: state[1] < work.count, step, start)
    logp, lse, c = scores(x, work.count)
    entropy = None if x.weighted is None else lse - jnp.sum(share(jnp.exp(x.best - lse[None]), x.weighted), axis=0)
    return logp, entropy, *_with_hits(cut, head, work, sums, c)


def _with_hits(cut: Cut, head: Head, work: Work, sums: Sums, c: Array) -> tuple[Array, Head]:
    """The sums, completed by the terms at the tokens themselves (the first terms of the formulas above)."""
    ids, hit = work.tokens.reshape(-1), c.reshape(-1)
    # Dead tokens have a weight of 0 and ids that may be in no vocabulary.
    used = hit != 0 if cut.skips else (ids >= 0) & (ids < len(head.weight))
    vectors = head.weight[jnp.where(used, ids, 0)].astype(hit.dtype)
    rows = sums.rows + (hit[:, None] * vectors).reshape(sums.rows.shape)
    states = work.rows.reshape(len(ids), -1).astype(hit.dtype)
    weight = sums.weight.at[ids].add(hit[:, None] * states, mode="drop", wrap_negative_indices=False)
    bias = None if head.bias is None else sums.bias.at[ids].add(hit, mode="drop", wrap_negative_indices=False)
    return rows, Head(weight, bias)


def _forward(options: Options, cut: Cut, head: Head, work: Work, x: Seen, tiles: tuple[Array, ...]) -> Seen:
    """Compute tiles `before` … `now` and write them into the ring, whose first tile is `done`."""
    done, before, now = tiles

    def run(size: int, j: Array, x: Seen) -> Seen:
        rows, ids, at = _rows(work, size, j), _few(work.tokens, size, j), _first_row_of(cut, done, j)

        def block(v: Array, x: Seen) -> Seen:
            part = take(head, cut.block, v)
            z = logits(options, head, part, rows)
            best = jnp.max(z, axis=1)
            e = jnp.exp(z - jnp.where(best > -jnp.inf, best, 0.0)[:, None])
            hits = picked(z, part, ids, _few(x.picked, size, j))
            weighted = x.weighted
            if weighted is not None:
                sums = jnp.sum(e * jnp.where(z > -jnp.inf, z, 0.0), axis=1)
                weighted = lax.dynamic_update_slice(weighted, sums.reshape(1, size, -1), (v, j, jnp.int32(0)))
            return Seen(
                lax.dynamic_update_slice(x.ring, e[None], (v, at, jnp.int32(0))),
                lax.dynamic_update_slice(x.best, best.reshape(1, size, -1), (v, j, jnp.int32(0))),
                lax.dynamic_update_slice(x.total, jnp.sum(e, axis=1).reshape(1, size, -1), (v, j, jnp.int32(0))),
                lax.dynamic_update_slice(x.picked, hits.reshape(size, -1), (j, jnp.int32(0))),
                weighted,
            )

        return _over_blocks(x.ring, block, x)

    return by_runs(before, now, cut.slots, lambda j: _lap(cut, done, j), run, x)


def _backward(
    options: Options, cut: Cut, head: Head, work: Work, x: Seen, sums: Sums, tiles: tuple[Array, ...], c: Array, lse: Array
) -> Sums:
    """Add tiles `done` … `ready` to the sums; the ring is in its state after `now` tiles."""
    kind, (done, ready, now) = lse.dtype, tiles
    kept = now - cut.slots  # the first tile that the ring still holds

    def stop(j: Array) -> Array:
        return jnp.where(j < kept, jnp.minimum(kept, _lap(cut, done, j)), _lap(cut, done, j))

    def add(size: int, j: Array, sums: Sums) -> Sums:
        rows, at, shape = _rows(work, size, j), _first_row_of(cut, done, j), (1, size * cut.tall, cut.block)
        states, weights, norms = rows.astype(kind), _few(c, size, j), _few(lse, size, j)

        def block(v: Array, found: Sums) -> Sums:
            part, best = take(head, cut.block, v), _few(x.best[v], size, j)

            def again() -> Array:
                return jnp.exp(logits(options, head, part, rows) - best[:, None])

            e = lax.cond(j >= kept, lambda: lax.dynamic_slice(x.ring, (v, at, jnp.int32(0)), shape)[0], again)
            s = weights * jnp.exp(best - norms)
            d_weight = product(e, s[:, None] * states, (0, 0))
            d_rows = s[:, None] * product(e, part.weight.astype(kind), (1, 0))
            bias = added(found.bias, part.start, -product(s, e, (0, 0)))
            return Sums(found.rows - d_rows, added(found.weight, part.start, -d_weight), bias)

        found = _over_blocks(x.ring, block, sums._replace(rows=jnp.zeros_like(states)))
        d_rows = found.rows.reshape(size, *sums.rows.shape[1:])
        return found._replace(rows=lax.dynamic_update_slice_in_dim(sums.rows, d_rows, j, 0))

    def run(size: int, j: Array, sums: Sums) -> Sums:
        if not cut.skips:
            return add(size, j, sums)
        live = jnp.any(_few(c, size, j) != 0)
        return lax.cond(live, lambda x: add(size, j, x), lambda x: x, sums)  # type: ignore[no-any-return]  # lax.cond returns Any

    return by_runs(done, ready, cut.slots, stop, run, sums)


def _moved(cut: Cut, x: Seen, tiles: tuple[Array, ...]) -> Seen:
    """Move tiles `done` … `before` to the beginning of a ring whose first tile was `first`, so that runs are contiguous."""
    first, done, before = tiles
    shape = (1, cut.tall, cut.block)

    def block(v: Array, ring: Array) -> Array:
        def one(j: Array, ring: Array) -> Array:
            e = lax.dynamic_slice(ring, (v, _first_row_of(cut, first, j), jnp.int32(0)), shape)
            return lax.dynamic_update_slice(ring, e, (v, _first_row_of(cut, done, j), jnp.int32(0)))

        found: Array = lax.fori_loop(done, before, one, ring)
        return found

    return x._replace(ring=_over_blocks(x.ring, block, x.ring))


def _over_blocks(ring: Array, body: Callable[[Array, Carry], Carry], carry: Carry) -> Carry:
    """The carry after `body` for each block of the vocabulary."""
    found: Carry = lax.fori_loop(jnp.int32(0), jnp.int32(len(ring)), body, carry)
    return found


def _few(x: Array, size: int, j: Array) -> Array:
    """[size · tall] of [n, tall]: tiles j, j + 1, …"""
    return lax.dynamic_slice_in_dim(x, j, size).reshape(-1)


def _rows(work: Work, size: int, j: Array) -> Array:
    """[size · tall, H] the hidden states of tiles j, j + 1, …"""
    return lax.dynamic_slice_in_dim(work.rows, j, size).reshape(size * work.rows.shape[1], -1)


def _first_row_of(cut: Cut, done: Array, j: Array) -> Array:
    """The first row of tile j in a ring whose first tile is `done`."""
    return (j - done) % cut.slots * cut.tall


def _lap(cut: Cut, done: Array, j: Array) -> Array:
    """The next tile after j whose place is the beginning of the ring."""
    return j + cut.slots - (j - done) % cut.slots
