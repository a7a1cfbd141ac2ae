"""Blocks of the vocabulary: some rows of the head at a time, so that a tile of logits and of gradients stays in the cache."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from .head import Array, Head, Options, tile


class Block(NamedTuple):
    """Some rows of the head. The last block starts early, to be as long as the others; what it has again is left out."""

    weight: Array
    bias: Array | None
    start: Array
    """Its first row's place in the head."""
    own: Array
    """The first row that no earlier block has."""


def how_many(vocabulary: int, size: int) -> int:
    """Blocks of `size` rows; none of an empty head."""
    return -(-vocabulary // size) if vocabulary else 0


def take(head: Head, size: int, v: Array) -> Block:
    """Block v."""
    own = v * size
    start = jnp.minimum(own, len(head.weight) - size)
    bias = None if head.bias is None else lax.dynamic_slice_in_dim(head.bias, start, size)
    return Block(lax.dynamic_slice_in_dim(head.weight, start, size), bias, start, own)


def logits(options: Options, head: Head, part: Block, rows: Array, first: Array | int = 0) -> Array:
    """[n, size], −∞ in columns that an earlier block has. `first`: the token id of the head's first row."""
    z = tile(rows, part.weight, part.bias, first + part.start, options)
    if len(part.weight) == 0 or len(head.weight) % len(part.weight) == 0:
        return z
    return jnp.where((part.start + jnp.arange(len(part.weight), dtype=jnp.int32) >= part.own)[None, :], z, -jnp.inf)


def picked(z: Array, part: Block, places: Array, before: Array) -> Array:
    """[n] the logits of the tokens at these places in the head, where they are this block's own; else what was there before."""
    column = places - part.start
    here = (places >= part.own) & (column < z.shape[1])
    found = jnp.take_along_axis(z, jnp.where(here, column, 0)[:, None], axis=1)[:, 0] if z.shape[1] else before
    return jnp.where(here, found, before)


def added(total: Array, start: Array, x: Array) -> Array:
    """total, with x added from `start` on: one pass in place."""
    return lax.dynamic_update_slice_in_dim(total, lax.dynamic_slice_in_dim(total, start, len(x)) + x, start, 0)
