"""The aligned scheme: the gradient is computed while exponentials of the logits are at hand. 3 matrix products, not 4.

A sequence's weights are known when its last token has been seen. Tokens are sorted by sequence and cut into equal tiles; a
ring of slots holds the exponentials E = exp(z − best) of the latest tiles. Forward fills the ring, then every tile whose
sequences are complete goes backward:

    ∂/∂W = Σ_t c_t h_t at row y_t − Eᵀ (s · h)     ∂/∂h_t = c_t w[y_t] − s_t E_t W     with s = c exp(best − lse)

so that weights scale the small operands and E is used as it stands. `best` is a tile's own, per block of the vocabulary. A
sequence too long for the ring loses its first tiles, which are then made again: 4 products for those. Shapes are static, how
many tiles there are to do is not: tokens without a weight are sorted to the end, where no loop goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from .head import Array, Head, Options, mesh_axes, tile, varying, wide

Weigh = Callable[[Array, Array], Array]
"""([n, tall] log-probs, [n, 1] whether they are known yet) ↦ [n, tall] weights c."""


Carry = TypeVar("Carry")


class Cut(NamedTuple):
    """How the work is cut; static."""

    tall: int
    """Tokens of a tile."""
    slots: int
    """Tiles that the ring holds."""
    block: int
    """Rows of the head at a time."""


class Work(NamedTuple):
    """Tokens in n tiles: by sequence, dead ones last."""

    rows: Array
    """[n, tall, H] hidden states, 0 in dead ones."""
    tokens: Array
    """[n, tall]"""
    last: Array
    """[n] how many tiles must have been seen before this one's weights are known."""
    count: Array
    """[] tiles with a live token."""


class Seen(NamedTuple):
    """What forward keeps, per block of the vocabulary."""

    ring: Array
    """[blocks, slots, tall, block] E."""
    best: Array
    """[blocks, n, tall] the largest logit."""
    total: Array
    """[blocks, n, tall] Σ E."""
    picked: Array
    """[n, tall] the tokens' logits."""


class Sums(NamedTuple):
    """What backward adds up: −Σ s E W, −Σ Eᵀ s h, −Σ Eᵀ s."""

    rows: Array
    """[n, tall, H]"""
    weight: Array
    """[V, H]"""
    bias: Array
    """[V]"""


def run(options: Options, cut: Cut, head: Head, work: Work, weigh: Weigh) -> tuple[Array, Array, Head]:
    """(log-probs [n, tall], gradients of the rows [n, tall, H], gradients of the head); what was summed is not rounded yet."""
    kind, (n, tall, _), vocabulary = wide(work.rows, head.weight), work.rows.shape, len(head.weight)
    blocks, index = -(-vocabulary // cut.block), jnp.arange(n, dtype=jnp.int32)

    def scores(x: Seen, tiles: Array) -> tuple[Array, Array, Array]:
        """(log-probs, log-sum-exps, weights) once so many tiles were seen."""
        known = (index < tiles)[:, None]
        lse = jax.nn.logsumexp(x.best, axis=0, b=x.total)
        logp = jnp.where(known, x.picked - lse, 0.0)
        return logp, lse, weigh(logp, known) / options.temperature

    def step(state: tuple[Array, Array, Seen, Sums]) -> tuple[Array, Array, Seen, Sums]:
        done, before, x, sums = state
        now = jnp.minimum(work.count, jnp.maximum(done + cut.slots, work.last[done]))
        x = _forward(options, cut, head, work, x, before, now)
        _, lse, c = scores(x, now)
        ready = jnp.sum((work.last <= now) & (index < work.count), dtype=jnp.int32)
        return ready, now, x, _backward(options, cut, head, work, x, sums, (done, ready, now), c, lse)

    x = Seen(
        jnp.zeros((blocks, cut.slots, tall, cut.block), dtype=kind),
        jnp.zeros((blocks, n, tall), dtype=kind),
        jnp.zeros((blocks, n, tall), dtype=kind),
        jnp.full((n, tall), -jnp.inf, dtype=kind),
    )
    sums = Sums(*(jnp.zeros(shape, dtype=kind) for shape in (work.rows.shape, head.weight.shape, (vocabulary,))))
    start = varying((jnp.int32(0), jnp.int32(0), x, sums), mesh_axes(work, head))
    _, _, x, sums = lax.while_loop(lambda state: state[0] < work.count, step, start)
    logp, _, c = scores(x, work.count)
    return logp, *_with_hits(head, work, sums, c)


def _with_hits(head: Head, work: Work, sums: Sums, c: Array) -> tuple[Array, Head]:
    """The gradients' other half, at the tokens themselves."""
    ids, hit = work.tokens.reshape(-1), c.reshape(-1)
    vectors = head.weight[jnp.where(hit != 0, ids, 0)].astype(hit.dtype)
    rows = sums.rows + (hit[:, None] * vectors).reshape(sums.rows.shape)
    states = work.rows.reshape(len(ids), -1).astype(hit.dtype)
    weight = sums.weight.at[ids].add(hit[:, None] * states, mode="drop", wrap_negative_indices=False)
    bias = None if head.bias is None else sums.bias.at[ids].add(hit, mode="drop", wrap_negative_indices=False)
    return rows, Head(weight, bias)


class _Block(NamedTuple):
    """Some rows of the head. The last block starts early, to be as long as the others; what it has again is left out."""

    weight: Array
    bias: Array | None
    start: Array
    """The token id of its first row."""
    own: Array
    """The first token id that no earlier block has."""


def _block(head: Head, cut: Cut, v: Array) -> _Block:
    own = v * cut.block
    start = jnp.minimum(own, len(head.weight) - cut.block)
    weight = lax.dynamic_slice_in_dim(head.weight, start, cut.block)
    return _Block(weight, None if head.bias is None else lax.dynamic_slice_in_dim(head.bias, start, cut.block), start, own)


def _logits(options: Options, head: Head, part: _Block, rows: Array) -> Array:
    """[tall, block], −∞ in columns that an earlier block has."""
    z = tile(rows, part.weight, part.bias, part.start, options)
    if len(head.weight) % len(part.weight) == 0:
        return z
    ids = part.start + jnp.arange(len(part.weight), dtype=jnp.int32)
    return jnp.where((ids >= part.own)[None, :], z, -jnp.inf)


def _forward(options: Options, cut: Cut, head: Head, work: Work, x: Seen, before: Array, now: Array) -> Seen:
    """Tiles `before` … `now` into the ring."""

    def block(v: Array, x: Seen) -> Seen:
        part = _block(head, cut, v)

        def one(j: Array, x: Seen) -> Seen:
            z = _logits(options, head, part, work.rows[j])
            best = jnp.max(z, axis=1)
            e = jnp.exp(z - jnp.where(best > -jnp.inf, best, 0.0)[:, None])
            column = work.tokens[j] - part.start
            here = (work.tokens[j] >= part.own) & (column < cut.block)
            picked = jnp.take_along_axis(z, jnp.where(here, column, 0)[:, None], axis=1)[:, 0]
            return Seen(
                lax.dynamic_update_slice(x.ring, e[None, None], (v, j % cut.slots, jnp.int32(0), jnp.int32(0))),
                x.best.at[v, j].set(best),
                x.total.at[v, j].set(jnp.sum(e, axis=1)),
                x.picked.at[j].set(jnp.where(here, picked, x.picked[j])),
            )

        return _loop(before, now, one, x)

    return _loop(jnp.int32(0), jnp.int32(x.ring.shape[0]), block, x)


def _backward(
    options: Options, cut: Cut, head: Head, work: Work, x: Seen, sums: Sums, tiles: tuple[Array, ...], c: Array, lse: Array
) -> Sums:
    """Adds tiles `done` … `ready` to the sums, the ring being that of `now` tiles seen."""
    kind, (done, ready, now) = lse.dtype, tiles

    def block(v: Array, sums: Sums) -> Sums:
        part = _block(head, cut, v)
        scale = c * jnp.exp(x.best[v] - lse)

        def again(j: Array) -> Array:
            return jnp.exp(_logits(options, head, part, work.rows[j]) - x.best[v, j][:, None])

        def one(j: Array, found: Sums) -> Sums:
            return lax.cond(jnp.any(c[j] != 0), add, lambda _, x: x, j, found)  # type: ignore[no-any-return]

        def add(j: Array, found: Sums) -> Sums:
            e = lax.cond(now - j <= cut.slots, lambda: x.ring[v, j % cut.slots], lambda: again(j))
            s, h = scale[j], work.rows[j].astype(kind)
            d_weight = lax.dot_general(e, s[:, None] * h, (((0,), (0,)), ((), ())), preferred_element_type=kind)
            d_rows = s[:, None] * lax.dot_general(e, part.weight.astype(kind), (((1,), (0,)), ((), ())))
            return Sums(found.rows.at[j].add(-d_rows), found.weight - d_weight, found.bias - s @ e)

        old = (lax.dynamic_slice_in_dim(total, part.start, cut.block) for total in (sums.weight, sums.bias))
        found = _loop(done, ready, one, Sums(sums.rows, *old))
        new = (lax.dynamic_update_slice_in_dim(a, b, part.start, 0) for a, b in zip(sums[1:], found[1:], strict=True))
        return Sums(found.rows, *new)

    return _loop(jnp.int32(0), jnp.int32(x.ring.shape[0]), block, sums)


def _loop(first: Array, end: Array, body: Callable[[Array, Carry], Carry], carry: Carry) -> Carry:
    """The carry after `body` at first, …, end − 1: no iteration where there is nothing to do."""
    found: Carry = lax.fori_loop(first, end, body, carry)
    return found
