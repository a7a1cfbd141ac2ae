"""The choice of the scheme that computes a loss on hidden states, and the derivative of the aligned scheme.

The two-pass scheme is a composition of log-probs, which have their own derivative rule, and the loss of log-probs. The aligned
scheme computes the gradients in its forward rule; its backward rule scales and returns them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from . import aligned
from .head import Array, Head, Options, mesh_axes, varying, wide
from .per_token import Wanted
from .terms import Constants, Terms, Weighed
from .two_pass import flat_scores

LEAST_RING = 64
"""Tokens below which most of the aligned scheme's time would be spent on passes over the head's gradient."""
TILE = (64, 520)
"""Largest number of tokens in a tile, of which several are processed together (runs.py), and of rows of the head in a block. A
block is small, so that its gradient is still in the cache when the next run adds to it, and no power of two (unless the
vocabulary is one): columns at such a distance compete for the same cache lines."""
LANES = 16
"""The length of a row of E is a multiple of this."""


@dataclass(frozen=True)
class Job:
    """The options of a loss on hidden states, without arrays; static under jit."""

    terms: Terms
    options: Options
    entropy: bool
    """Whether entropies are wanted, for a bonus or to be looked at."""
    cut: aligned.Cut | None
    """None: two-pass."""

    def scored(self, logp: Array, live: Array, x: Constants) -> Array:
        """Token array: log-probs of flat live tokens; tokens that were left out have a ratio of 1."""
        shape = x.layout.shape
        if x.old_logp is None:
            return jnp.where(live, logp, 0.0).reshape(shape)
        kind = wide(logp, x.old_logp)
        return jnp.where(live.reshape(shape), logp.reshape(shape).astype(kind), x.old_logp.astype(kind))

    def weigh(self, logp: Array, entropy: Array | None, live: Array, x: Constants) -> Weighed:
        """The loss at flat log-probs (and entropies) of the live tokens."""
        found = None if entropy is None else entropy.reshape(x.layout.shape)
        return self.terms.weigh(self.scored(logp, live, x), found, x)


def cut_for(
    budget_bytes: int, head: Head, options: Options, terms: Terms, x: Constants, kind: Any, entropy: bool
) -> aligned.Cut | None:
    """The sizes of the aligned scheme; None if the two-pass scheme is used."""
    vocabulary, num_tokens, item = len(head.weight), math.prod(x.layout.shape), jnp.dtype(kind).itemsize
    elsewhere = options.axis is not None or x.layout.local is not x.layout or jax.default_backend() != "cpu"
    if elsewhere or options.soft_cap is not None or terms.has_bonus or not vocabulary or not num_tokens:
        return None
    blocks = -(-vocabulary // TILE[1])
    block = min(vocabulary, -(-vocabulary // (blocks * LANES)) * LANES)
    sums = head.weight.size * item if head.weight.dtype != kind else 0
    capacity = (budget_bytes - sums) // (blocks * block * item)
    if capacity < LEAST_RING:
        return None
    tall = max(1, min(TILE[0], capacity // 4, num_tokens))
    return aligned.Cut(tall, min(capacity // tall, -(-num_tokens // tall)), block, x.kl is None, entropy)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def aligned_loss(
    job: Job, rows: Array, head: Head, tokens: Array, live: Array, x: Constants
) -> tuple[Array, Array, Array | None]:
    """([] value, [T] log-probs, [T] entropies or None), 0 where not live; if no gradient is wanted, one product."""
    logp, entropy, _ = flat_scores(job.options, Wanted(job.entropy), rows, head, tokens, live)
    return job.weigh(logp, None, live, x).value, logp, entropy


def _forward_rule(
    job: Job, rows: Array, head: Head, tokens: Array, live: Array, x: Constants
) -> tuple[tuple[Array, Array, Array | None], tuple[Array, Head, Any]]:
    assert job.cut is not None
    kind, layout, tall = wide(rows, head.weight), x.layout, job.cut.tall
    owner = layout.spread(jnp.arange(layout.num_sequences, dtype=jnp.float32)).reshape(-1).astype(jnp.int32)
    key = jnp.where(live, owner, layout.num_sequences)  # exact up to 2**24 sequences
    order = jnp.argsort(key, stable=True)
    inverse = jnp.argsort(order, stable=True)

    def tiles(flat: Array) -> Array:
        flat = jnp.pad(flat[order], [(0, -len(flat) % tall)] + [(0, 0)] * (flat.ndim - 1))
        return flat.reshape(-1, tall, *flat.shape[1:])

    def back(tiled: Array) -> Array:
        return tiled.reshape(-1, *tiled.shape[2:])[: len(live)][inverse]

    def weigh(logp: Array, known: Array) -> Array:
        seen = live & back(jnp.broadcast_to(known, logp.shape))
        c = jax.grad(lambda at: job.terms.weigh(at, None, x).value)(job.scored(back(logp), seen, x))
        return tiles(jnp.where(live, c.reshape(-1), 0.0).astype(kind))

    ends = jnp.searchsorted(key[order], key, side="right", method="sort").astype(jnp.int32)
    if job.terms.on_policy and x.kl is None:  # every weight is known from the start
        ends = inverse.astype(jnp.int32) + 1
    last = -(-jnp.max(tiles(jnp.where(live, ends, 0)), axis=1) // tall)
    count = -(-jnp.sum(live, dtype=jnp.int32) // tall)
    work = aligned.Work(tiles(jnp.where(live[:, None], rows, 0.0)), tiles(tokens), last, count)
    axes = mesh_axes(rows, head, tokens, live, x)
    logp, entropy, d_rows, d_head = aligned.run(job.options, job.cut, varying(head, axes), varying(work, axes), weigh)
    logp = jnp.where(live, back(logp), 0.0)
    entropy = None if entropy is None else jnp.where(live, back(entropy), 0.0)
    like = (rows[:0], jax.tree.map(lambda leaf: leaf[:0], head))
    return (job.weigh(logp, None, live, x).value, logp, entropy), (back(d_rows), d_head, like)


def _backward_rule(_: Job, saved: Any, upstream: tuple[Any, ...]) -> tuple[Any, ...]:
    *gradients, like = saved
    # The only rounding to the parameters' dtypes.
    gradients = jax.tree.map(lambda g, x: (g * upstream[0].astype(g.dtype)).astype(x.dtype), tuple(gradients), like)
    return *gradients, None, None, None


aligned_loss.defvjp(_forward_rule, _backward_rule)
