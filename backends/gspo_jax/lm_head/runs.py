"""Loops over tiles, several at a time: a product of 64 rows runs at two thirds of the speed of one of 512.

The number of tiles is known only at run time, and shapes are static. So a range is processed in runs of eight tiles, then in
one of four, of two and of one, by one loop for each size, which may have no iterations. No tile outside of the range is
computed, and no branch copies the carry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
from jax import lax

from .head import Array, mesh_axes, varying

Carry = TypeVar("Carry")

LONGEST = 8
"""Largest number of tiles in a run."""


def by_runs(
    first: Array,
    end: Array,
    most: int,
    stop: Callable[[Array], Array] | None,
    body: Callable[[int, Array, Carry], Carry],
    carry: Carry,
) -> Carry:
    """The carry after `body(size, j, carry)` for runs of tiles j, …, j + size − 1 that cover first, …, end − 1 in order.

    A run that starts at j ends at `stop(j)` at the latest (None: at any tile). After a stop the longest runs come first again.
    `most` limits the length of a run.
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
