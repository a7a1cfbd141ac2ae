"""Loops over tiles, several at a time: a product of 64 rows runs at two thirds of the speed of one of 512.

How many there are is known only at run time, and shapes are static; so a range is done as eights, then as a four, a two and a
one, each a loop of its own that may have nothing to do. Nothing is computed that nobody wants, and no branch copies a carry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
from jax import lax

from .head import Array, mesh_axes, varying

Carry = TypeVar("Carry")

LONGEST = 8
"""Most tiles at a time."""


def by_runs(
    first: Array,
    end: Array,
    most: int,
    stop: Callable[[Array], Array] | None,
    body: Callable[[int, Array, Carry], Carry],
    carry: Carry,
) -> Carry:
    """The carry after `body(size, j, carry)` for runs of tiles j, …, j + size − 1 that cover first, …, end − 1 in order.

    No run goes beyond `stop(j)`, the next place after j where one has to end (None: nowhere); `most` is the longest that there
    can be. What follows a stop begins with the longest runs again.
    """
    longest = min(most, LONGEST)
    sizes = [longest, *(2**k for k in range((longest - 1).bit_length() - 1, -1, -1))]

    def stretch(state: tuple[Array, Carry]) -> tuple[Array, Carry]:
        at, carry = state
        last = end if stop is None else jnp.minimum(end, stop(at))
        for size in sizes:
            times = (last - at) // size

            def run(i: Array, x: Carry, size: int = size, at: Array = at) -> Carry:
                return body(size, at + i * size, x)

            carry = lax.fori_loop(jnp.int32(0), times, run, carry)
            at = at + times * size
        return at, carry

    start = varying(first, mesh_axes(first, end))
    _, carry = lax.while_loop(lambda state: state[0] < end, stretch, (start, carry))
    return carry
