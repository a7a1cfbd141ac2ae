"""Blocks of the vocabulary: some rows of the head, so that a tile of logits and of gradients stays in the cache."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from .head import Array, Head, Options, tile


class Block(NamedTuple):
    """Some rows of the head. The last block starts early, to be as long as the others; rows that it repeats are not used."""

    weight: Array
    bias: Array | None
    start: Array
    """Index of its first row in the head."""
    own: Array
    """Index of the first row that is in no earlier block."""


def how_many(vocabulary: int, size: int) -> int:
    """Number of blocks of `size` rows; 0 for an empty head."""
    return -(-vocabulary // size) if vocabulary else 0


def take(head: Head, size: int, v: Array) -> Block:
    """Block v."""
    own = v * size
    start = jnp.minimum(own, len(head.weight) - size)
    bias = None if head.bias is None else lax.dynamic_slice_in_dim(head.bias, start, size)
    return Block(lax.dynamic_slice_in_dim(head.weight, start, size), bias, start, own)


def logits(options: Options, head: Head, part: Block, rows: Array, first: Array | int = 0) -> Array:
    """[n, size] logits, −∞ in columns that are in an earlier block. `first`: the token id of the head's first row."""
    z = tile(rows, part.weight, part.bias, first + part.start, options)
    if len(part.weight) == 0 or len(head.weight) % len(part.weight) == 0:
        return z
    return jnp.where((part.start + jnp.arange(len(part.weight), dtype=jnp.int32) >= part.own)[None, :], z, -jnp.inf)


def picked(z: Array, part: Block, places: Array, before: Array) -> Array:
    """[n] the logits of the tokens at these rows of the head, if this block is the first with the row; else `before`."""
    column = places - part.start
    here = (places >= part.own) & (column < z.shape[1])
    found = jnp.take_along_axis(z, jnp.where(here, column, 0)[:, None], axis=1)[:, 0] if z.shape[1] else before
    return jnp.where(here, found, before)


def share(scale: Array, weighted: Array) -> Array:
    """scale · weighted; 0 of a part whose logits are all so low that their sum may be −∞."""
    return jnp.where(scale == 0, 0.0, scale * jnp.where(scale == 0, 0.0, weighted))


def added(total: Array, start: Array, x: Array) -> Array:
    """`total` with x added to the rows from `start` on, in one pass and in place."""
    return lax.dynamic_update_slice_in_dim(total, lax.dynamic_slice_in_dim(total, start, len(x)) + x, start, 0)
