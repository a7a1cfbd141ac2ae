"""The two-pass scheme: scores first; when the weights are known, the gradient from recomputed tiles. Memory O(tile).

Forward loops over blocks of rows. Backward loops over blocks of the vocabulary and, inside, over rows: a block of the head's
gradient is summed in float32 and then written once, in the parameter's dtype.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import blocks
from .blocks import Scores, Weights
from .head import Head
from .products import LOW, matmul

try:
    from . import triton_kernels as kernels
except ImportError:  # Triton is optional: plain torch then
    kernels = None  # type: ignore[assignment]  # no Triton, no module

TILE = (1024, 4080)
"""Rows and vocabulary of a tile on a CPU: 16 MiB of float32. Rows 4096 apart would compete for the same cache lines."""
GPU_TILE = (8192, 3840)
"""On a GPU in plain torch, at most: 120 MiB of float32, and half of it rounded for the next product."""
FUSED_ROWS, FUSED_ELEMENTS = 16384, 2**26
"""For the kernels: 128 MiB of bfloat16, as many columns as fit beside the rows: few launches, each of them large."""
GPU_SUMS = 2**24
"""64 MiB of float32 for the block of the head's gradient that is being added up."""


class Gradients(NamedTuple):
    """Gradients with respect to a head's inputs; None where not wanted."""

    hidden: Tensor | None
    """[n, H] in the accumulator's dtype."""
    weight: Tensor | None
    """[V, H]"""
    bias: Tensor | None
    """[V]"""


class Scored(NamedTuple):
    """Results of forward."""

    logp: Tensor
    """[n] log π(token)."""
    lse: Tensor
    """[n] log Σ_v exp z_v."""
    entropy: Tensor | None
    """[n] −Σ_v p_v log p_v; None if not wanted."""
    sum_squares: Tensor | None
    """[n] Σ_v p_v²; None if not wanted."""


def forward(head: Head, rows: Tensor, tokens: Tensor, entropy: bool = False, squares: bool = False) -> Scored:
    """Log-probs of the rows' tokens, [n, H] and [n]; over all ranks if the head is a shard."""
    if kernels is not None and kernels.usable(head, rows):
        seen = kernels.scores(head, rows, tokens, entropy, squares)
    else:
        seen = _scores(head, rows, tokens, entropy, squares)
    return finish(head, seen)


def finish(head: Head, seen: Scores) -> Scored:
    """From scores over this rank's part of the vocabulary to log-probs over all of it."""
    best, total, picked, weighted, squares = seen
    if head.shard is not None and len(best):
        best = head.shard.maximum(seen.best.clone())
        # A rank without rows of the head has best = −∞, scale 0 and adds nothing.
        scale = (seen.best - best).exp()
        more = (
            None if weighted is None else blocks.share(scale, weighted),
            None if squares is None else scale.square() * squares,
        )
        total, picked, *rest = head.shard.sum(torch.stack([scale * total, picked, *(x for x in more if x is not None)]))
        weighted, squares = (None if x is None else rest.pop(0) for x in more)
    lse = best + total.log()
    entropy = None if weighted is None else lse - weighted / total
    return Scored(picked - lse, lse, entropy, None if squares is None else squares / total.square())


def backward(head: Head, rows: Tensor, tokens: Tensor, weights: Weights, into: Gradients, add: bool = False) -> None:
    """Gradients of Σ c logp + Σ e entropy, written into the tensors of `into`, or added to them if `add`.

    `into.weight` and `into.bias` are in the parameters' dtypes; if they are added to, all must be in the accumulator's.
    """
    maker = _Maker(head, rows, add)
    units = _units(weights) if maker.operand == torch.float16 else None
    states, unit, shares = rows, None, rows.new_empty(0)
    if units is not None:
        weights = weights._replace(c=weights.c / units, e=None if weights.e is None else weights.e / units)
        unit = units.amax() if len(rows) else units.new_ones(())
        shares = (units / unit)[:, None]
        states, shares = (rows * shares).to(rows.dtype), shares.to(rows.dtype)
    for start in range(0, len(head.weight), maker.broad):
        block = slice(start, min(start + maker.broad, len(head.weight)))
        vectors = head.weight[block].to(maker.operand)
        sum_w, sum_b = (_accumulator(x, block, maker.wide) for x in (into.weight, into.bias))
        for top in range(0, len(rows), maker.tall):
            part = slice(top, top + maker.tall)
            tile = maker.tile(part, tokens, block, weights)
            if sum_w is not None:
                matmul(tile.T, states[part].to(maker.operand), sum_w, fresh=top == 0 and not add)
            if into.hidden is not None:
                matmul(tile, vectors, into.hidden[part], fresh=start == 0 and not add)
            if sum_b is not None and units is not None:
                matmul(tile.T, shares[part], sum_b[:, None], fresh=top == 0 and not add)
            elif sum_b is not None:
                column = tile.sum(0, dtype=maker.wide)
                sum_b.copy_(column) if top == 0 and not add else sum_b.add_(column)
        for gradient, total in ((into.weight, sum_w), (into.bias, sum_b)):
            _write(gradient, block, total, unit, empty=not len(rows) and not add)
    if into.hidden is not None:
        if not len(head.weight) and not add:
            into.hidden.zero_()
        if units is not None:
            into.hidden.mul_(units[:, None])
        if head.shard is not None and into.hidden.numel():
            head.shard.sum(into.hidden)


class _Maker:
    """Computes tiles of gradients, and holds their size and the dtype in which they enter the next product.

    Tiles that are added to existing gradients are in the accumulator's dtype: the scale of float16 tiles would also apply to
    the existing ones.
    """

    def __init__(self, head: Head, rows: Tensor, add: bool) -> None:
        self.head, self.rows = head, rows
        self.wide = head.wide(rows)
        self.fused = kernels is not None and kernels.usable(head, rows) and not add
        low = rows.dtype in LOW and rows.dtype == head.weight.dtype and (self.fused or rows.is_cuda) and not add
        self.operand = rows.dtype if low else self.wide
        self.tall, self.broad = _tile_shape(rows, self.fused)
        columns = -(-min(self.broad, len(head.weight)) // 8) * 8
        size = min(self.tall, len(rows)) * columns
        self._buffer = torch.empty(size, dtype=self.operand if self.fused else self.wide, device=rows.device)

    def tile(self, part: slice, tokens: Tensor, block: slice, weights: Weights) -> Tensor:
        """∂loss/∂logits of some rows at a block of the vocabulary, in the dtype of the products."""
        engine = kernels if self.fused else blocks
        made: Tensor = engine.dlogits(self.head, self.rows[part], tokens[part], block, weights.rows(part), self._buffer)
        return made.to(self.operand)


def _scores(head: Head, rows: Tensor, tokens: Tensor, entropy: bool, squares: bool) -> Scores:
    wide = head.wide(rows)
    tall, broad = _tile_shape(rows, fused=False)
    buffer = torch.empty(min(tall, len(rows)) * min(broad, len(head.weight)), dtype=wide, device=rows.device)
    parts = []
    for top in range(0, len(rows), tall):
        part = slice(top, top + tall)
        seen = blocks.nothing_seen(rows[part], wide, entropy, squares)
        for start in range(0, len(head.weight), broad):
            block = slice(start, min(start + broad, len(head.weight)))
            tile = blocks.logits(head, rows[part], block, buffer)
            seen = blocks.merge(seen, blocks.scores(tile, tokens[part], head.first + start, entropy, squares))
        parts.append(seen)
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return blocks.nothing_seen(rows, wide, entropy, squares)
    return blocks.joined(parts)


def _tile_shape(rows: Tensor, fused: bool) -> tuple[int, int]:
    if not fused and not rows.is_cuda:
        return TILE
    tall, broad = GPU_TILE if not fused else (FUSED_ROWS, FUSED_ELEMENTS)
    tall = max(1, min(tall, len(rows)))
    broad = min(broad, FUSED_ELEMENTS // tall, GPU_SUMS // max(1, rows.shape[1]))
    return tall, max(256, broad // 256 * 256)


def _units(weights: Weights) -> Tensor:
    """[n] the power of two above a row's weights, for float16 tiles: 1/(N·|y|) times a probability would underflow there.

    One for each row: a short response's weights are a thousand times a long one's. Weights of 0, and those that are not
    finite, have the largest of the others' (1 if there is none).
    """
    size = weights.c.abs() if weights.e is None else torch.maximum(weights.c.abs(), weights.e.abs())
    ordinary = (size > 0) & size.isfinite()
    units = torch.where(ordinary, torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent), 0.0)
    most = units.amax() if len(units) else size.new_zeros(())
    return torch.where(ordinary, units, torch.where(most > 0, most, 1.0))


def _accumulator(gradient: Tensor | None, block: slice, wide: torch.dtype) -> Tensor | None:
    """The tensor in which a block of the head's gradient is summed: the gradient itself if its dtype is wide enough."""
    if gradient is None:
        return None
    own = gradient[block]
    return own if own.dtype == wide else torch.empty(own.shape, dtype=wide, device=own.device)


def _write(gradient: Tensor | None, block: slice, total: Tensor | None, unit: Tensor | None, empty: bool) -> None:
    if gradient is None or total is None:
        return
    if empty:
        total.zero_()
    if unit is not None:
        total *= unit
    if total.dtype != gradient.dtype:  # else it is the block itself
        gradient[block] = total
