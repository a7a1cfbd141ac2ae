"""Running sums over the tokens of each sequence, in any layout that holds whole sequences."""

from __future__ import annotations

from gspo_core.types import Array, Layout, Namespace

from .array import arange_like, shape_of


def whole_sequences(layout: Layout) -> None:
    """TypeError for a layout whose sequences are spread over ranks."""
    if layout.local is not layout:
        raise TypeError("layout: expected one that holds whole responses, got one whose responses are spread over ranks")


def sums_from_here(xp: Namespace, x: Array, layout: Layout, decay: float = 1.0) -> Array:
    """Token array: Σ_{k ≥ t} decay^(k − t) x_k over the tokens of the same sequence; k − t counts its own tokens."""
    return _running(xp, x, layout, decay, backwards=False)


def sums_up_to_here(xp: Namespace, x: Array, layout: Layout, decay: float = 1.0) -> Array:
    """Token array: Σ_{k ≤ t} decay^(t − k) x_k over the tokens of the same sequence; t − k counts its own tokens."""
    return _running(xp, x, layout, decay, backwards=True)


def _running(xp: Namespace, x: Array, layout: Layout, decay: float, backwards: bool) -> Array:
    """In log₂(longest) steps: tokens are sorted by sequence, and after n steps a slot holds the sum of its next 2ⁿ tokens."""
    width = layout.shape[-1]
    numbers = layout.spread(arange_like(xp, layout.num_sequences, x))
    owner = xp.reshape(xp.where(layout.valid, numbers, -1.0), (-1,))
    order = xp.argsort(owner, stable=True)
    inverse = xp.argsort(order, stable=True)
    if backwards:
        order, inverse = xp.flip(order), shape_of(order)[0] - 1 - inverse
    owner, total = xp.take(owner, order, axis=0), xp.take(xp.reshape(x, (-1,)), order, axis=0)
    step, slots = 1, shape_of(total)[0]
    while step < width and decay**step > 0.0:
        edge = min(step, slots)
        same = owner[edge:] == owner[: slots - edge]
        more = xp.where(same, total[edge:], 0.0) * decay**step
        total = xp.concat([total[: slots - edge] + more, total[slots - edge :]])
        step *= 2
    return layout.select(xp.reshape(xp.take(total, inverse, axis=0), layout.shape))
