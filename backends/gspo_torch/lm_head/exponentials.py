"""A chunk of rows in the aligned scheme: exponentials of logits, block by block of the vocabulary, and the gradients from them.

With E_v = exp(z_v − b), b the row's largest logit in v's block, s = exp(b − max z) and the rows' weights c, the gradients are

    ∂/∂h_t = c_t w[y_t] − Σ_blocks (c_t s_t/Σ) E_t W        ∂/∂W = Σ_t c_t h_t at row y_t − Eᵀ (c s/Σ · h)

so that weights scale the small operands and E is used unchanged. A block is exponentiated while it is still in the processor's
cache, when the maximum of the whole row is not known yet. Blocks that do not fit into the buffer are computed twice.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import blocks, two_pass
from .head import Head
from .products import matmul
from .two_pass import Gradients, Scored

COLUMNS = 4080
"""Columns of the vocabulary per matrix product that sums over them, and of a block that is computed again."""
WIDE = 16320
"""Columns of a block that is kept: each costs a pass over the small operands."""


class Space(NamedTuple):
    """Memory for the logits of a chunk."""

    kept: Tensor
    """[n, K] the first K columns of the vocabulary; whole blocks, or all of it."""
    spare: Tensor
    """[n · COLUMNS] for one block of the rest; empty if there is none."""


class Found(NamedTuple):
    """What `exponentiate` found out about every row."""

    scored: Scored
    best: Tensor
    """[n] max z."""
    total: Tensor
    """[n] Σ_v exp(z_v − best)."""
    scales: list[Tensor]
    """For every kept block [n] s; none if it is the only block, where s is 1."""


def exponentiate(head: Head, rows: Tensor, tokens: Tensor, space: Space, entropy: bool) -> Found:
    """Log-probs and entropies of the rows; leaves the exponentials E in `space.kept`."""
    rows = rows.to(space.kept.dtype)
    seen, bests = blocks.nothing_seen(rows, rows.dtype, entropy), []
    cut = columns(head, space.kept.shape[1])
    for block in cut:
        is_kept = block.stop <= space.kept.shape[1]
        tile = blocks.fill(head, rows, block, space.kept[:, block] if is_kept else _view(space.spare, len(rows), block))
        found = blocks.scores(tile, tokens, head.first + block.start, entropy)
        seen = blocks.merge(seen, found)
        bests += [found.best] * is_kept
    scales = [] if len(cut) == 1 else [blocks.exponentiate(best - seen.best) for best in bests]
    return Found(two_pass.finish(head, seen), seen.best, seen.total, scales)


def add(head: Head, rows: Tensor, tokens: Tensor, c: Tensor, found: Found, space: Space, into: Gradients, fresh: bool) -> bool:
    """Adds the chunk's gradients to `into` (overwrites the head's if `fresh`). Returns whether any row had a weight."""
    live = compact(space.kept, c)
    if not len(live):
        return False
    wide = space.kept.dtype
    h, picked, weight = rows[live].to(wide), tokens[live], head.weight
    hit = (c[live].to(wide) / head.temperature)[:, None]
    miss, best = -hit / found.total[live, None], found.best[live]
    product, sum_h = (None, None) if into.hidden is None else (torch.empty_like(h), torch.zeros_like(h))
    for i, block in enumerate(columns(head, space.kept.shape[1])):
        if block.stop <= space.kept.shape[1]:
            e, factor = space.kept[: len(live), block], miss * found.scales[i][live, None] if found.scales else miss
        else:
            e, factor = _again(head, h, block, best, space), miss
        if into.weight is not None:
            matmul(e.T, h * factor, into.weight[block], fresh)
        if into.bias is not None:
            matmul(e.T, factor, into.bias[block, None], fresh)
        if product is not None and sum_h is not None:
            for start in range(0, e.shape[1], COLUMNS):
                matmul(e[:, start : start + COLUMNS], weight[block][start : start + COLUMNS], product, fresh=start == 0)
            sum_h.addcmul_(product, factor)
    if into.weight is not None:
        into.weight.index_add_(0, picked, h * hit)
    if into.bias is not None:
        into.bias.index_add_(0, picked, hit[:, 0])
    if into.hidden is not None and sum_h is not None:
        into.hidden[live] = sum_h.addcmul_(weight[picked].to(wide), hit)
    return True


def _again(head: Head, h: Tensor, block: slice, best: Tensor, space: Space) -> Tensor:
    """[m, block] exp(z − best) of a block that was not kept."""
    tile = blocks.fill(head, h, block, _view(space.spare, len(h), block))
    for strip in blocks.strips(tile):
        blocks.exponentiate(tile[strip].sub_(best[strip, None]))
    return tile


def _view(spare: Tensor, rows: int, block: slice) -> Tensor:
    """[rows, block] of memory."""
    width = block.stop - block.start
    return spare[: rows * width].view(rows, width)


def compact(tile: Tensor, c: Tensor) -> Tensor:
    """Move the rows with a weight to the beginning of the tile. Returns [m] their former indices, in the new order.

    Each gap is filled with a row from the end. One product of all rows is faster than several of few rows, each of which would
    read and write the whole gradient of the head.

    >>> tile = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])
    >>> compact(tile, torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])), tile[:3, 0]
    (tensor([0, 4, 2]), tensor([0., 4., 2.]))
    """
    live = torch.nonzero(c)[:, 0]
    order = torch.arange(len(live), device=live.device)
    gaps = torch.nonzero(c[: len(live)] == 0)[:, 0]
    order[gaps] = live[len(live) - len(gaps) :]
    for gap in gaps.tolist():
        tile[gap] = tile[order[gap]]
    return order


def columns(head: Head, kept: int) -> list[slice]:
    """Slices of the vocabulary, one per block, of which the first hold the `kept` columns."""
    last = len(head.weight)
    starts = [*range(0, kept, WIDE), *range(kept, last, COLUMNS)]
    return [slice(start, min(start + WIDE, kept) if start < kept else min(start + COLUMNS, last)) for start in starts]
