"""The aligned scheme: chunks of whole sequences, whose weights are computed while their logits are still in memory.

Three matrix products instead of two-pass's four, and one exponential: with E = exp(z − max) of a chunk, [n, V], and the rows'
weights c, the gradients are

    ∂/∂h_t = c_t w[y_t] − (c_t/Σ E_t) E_t W        ∂/∂W = Σ_t c_t h_t at row y_t − Eᵀ (c/ΣE · h)

so that weights scale the small operands and E is used unchanged. A sequence too long for the buffer is computed in two passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import two_pass
from .blocks import Weights, tile_scores
from .head import Head
from .products import matmul
from .two_pass import Gradients

CACHE = 2**18
"""Number of logits exponentiated at a time: 1 MiB of float32, which stays in a core's cache."""
COLUMNS = 4080
"""Columns of the vocabulary per matrix product."""
Weigh = Callable[[slice, Tensor], Tensor]
"""(rows, their log-probs) ↦ their weights c. The rows hold whole sequences."""


class Chunk(NamedTuple):
    """Consecutive rows."""

    rows: slice
    fits: bool
    """Whether their logits fit into the buffer."""


def chunks(lengths: list[int], capacity: int) -> list[Chunk]:
    """Chunks of whole sequences of these lengths, in order: as many as fit into `capacity` rows, or one longer sequence alone.

    >>> [(chunk.rows.start, chunk.rows.stop, chunk.fits) for chunk in chunks([2, 2, 9, 1], capacity=4)]
    [(0, 4, True), (4, 13, False), (13, 14, True)]
    """
    cut: list[Chunk] = []
    for length in lengths:
        start = cut[-1].rows.stop if cut else 0
        last = cut[-1] if cut and cut[-1].fits else None
        if last is not None and start + length - last.rows.start <= capacity:
            cut[-1] = Chunk(slice(last.rows.start, start + length), True)
        else:
            cut.append(Chunk(slice(start, start + length), length <= capacity))
    return cut


def stride(vocabulary: int) -> int:
    """Distance between the logits of two rows. Rows that are a power of two apart would compete for the same cache lines.

    >>> stride(32768), stride(50257), stride(512)  # 64 bytes more; not divisible anyway; small anyway
    (32784, 50257, 512)
    """
    return vocabulary + 16 if vocabulary % 128 == 0 and vocabulary >= 4096 else vocabulary


class Seen(NamedTuple):
    """Per row."""

    logp: Tensor
    """[n]"""
    entropy: Tensor | None
    """[n]; None if not wanted."""


def run(
    head: Head, rows: Tensor, tokens: Tensor, cut: list[Chunk], weigh: Weigh, into: Gradients, entropy: bool = False
) -> Seen:
    """Log-probs of all rows, and entropies. Overwrites the tensors of `into` with the gradients, in the accumulator's dtype."""
    wide = head.wide(rows)
    logp = torch.empty(len(rows), dtype=wide, device=rows.device)
    uncertainty = torch.empty_like(logp) if entropy else None
    longest = max((chunk.rows.stop - chunk.rows.start for chunk in cut if chunk.fits), default=0)
    buffer = torch.empty(longest * stride(len(head.weight)), dtype=wide, device=rows.device)
    if into.hidden is not None:
        into.hidden.zero_()
    fresh = True  # no chunk has been written to the head's gradients yet
    for chunk in cut:
        part = chunk.rows
        own = into._replace(hidden=None if into.hidden is None else into.hidden[part])
        if chunk.fits:
            at = None if uncertainty is None else uncertainty[part]
            total, picked = _exponentiate(head, rows[part], tokens[part], buffer, at)
            logp[part] = picked
            fresh = not _add(head, rows[part], tokens[part], weigh(part, picked), total, buffer, own, fresh) and fresh
        else:
            fresh = _clear(into, fresh)
            scored = two_pass.forward(head, rows[part], tokens[part], entropy)
            logp[part] = scored.logp
            if uncertainty is not None and scored.entropy is not None:
                uncertainty[part] = scored.entropy
            weights = Weights(weigh(part, scored.logp), scored.lse, None, None)
            two_pass.backward(head, rows[part], tokens[part], weights, own, add=True)
    _clear(into, fresh)
    return Seen(logp, uncertainty)


def _clear(into: Gradients, fresh: bool) -> bool:
    """Set the head's gradients to 0 if `fresh`. Returns False, the new value of `fresh`."""
    for gradient in (into.weight, into.bias):
        if gradient is not None and fresh:
            gradient.zero_()
    return False


def cached_logits(vocabulary: int) -> int:
    """Number of logits that are exponentiated at a time, whole rows of them; entropies need a copy of these."""
    return max(1, CACHE // vocabulary) * vocabulary


def _exponentiate(head: Head, rows: Tensor, tokens: Tensor, buffer: Tensor, entropy: Tensor | None) -> tuple[Tensor, Tensor]:
    """([n] Σ E, [n] log-probs). Leaves E = exp(z − max) in the buffer, [n, V], and [n] entropies in `entropy` unless None."""
    vocabulary, wide = len(head.weight), head.wide(rows)
    tile = _logits(buffer, len(rows), vocabulary)
    rows = rows.to(wide)
    for block in _columns(head):
        matmul(rows, head.weight[block].T, tile[:, block])
    total = torch.empty(len(rows), dtype=wide, device=rows.device)
    logp = torch.empty_like(total)
    step = cached_logits(vocabulary) // vocabulary
    for top in range(0, len(rows), step):
        part = slice(top, top + step)
        if head.bias is not None:
            tile[part] += head.bias
        if head.temperature != 1.0:
            tile[part] /= head.temperature
        seen = tile_scores(tile[part], tokens[part], head.first, entropy is not None)
        total[part] = seen.total
        logp[part] = seen.picked - seen.best - seen.total.log()
        if entropy is not None and seen.weighted is not None:
            entropy[part] = seen.best + seen.total.log() - seen.weighted / seen.total
    return total, logp


def _add(
    head: Head, rows: Tensor, tokens: Tensor, c: Tensor, total: Tensor, buffer: Tensor, into: Gradients, fresh: bool
) -> bool:
    """Accumulate one chunk's gradients from the exponentials in `buffer` (overwrite if `fresh`).

    Returns whether any row had a weight.
    """
    tile = _logits(buffer, len(rows), len(head.weight))
    live = compact(tile, c)
    if not len(live):
        return False
    wide, e, h, picked = tile.dtype, tile[: len(live)], rows[live].to(tile.dtype), tokens[live]
    hit = (c[live].to(wide) / head.temperature)[:, None]
    miss = hit / total[live, None]
    if into.weight is not None:
        matmul(e.T, h * -miss, into.weight, fresh)
        into.weight.index_add_(0, picked, h * hit)
    if into.bias is not None:
        matmul(e.T, -miss, into.bias[:, None], fresh)
        into.bias.index_add_(0, picked, hit[:, 0])
    if into.hidden is not None:
        for block in _columns(head):
            matmul(e[:, block], head.weight[block], h, fresh=block.start == 0)
        into.hidden[live] = h.mul_(-miss).addcmul_(head.weight[picked].to(wide), hit)
    return True


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


def _logits(buffer: Tensor, rows: int, vocabulary: int) -> Tensor:
    """[rows, V] view of the buffer."""
    return buffer[: rows * stride(vocabulary)].view(rows, stride(vocabulary))[:, :vocabulary]


def _columns(head: Head) -> list[slice]:
    """Slices of the vocabulary, one per block."""
    return [slice(start, min(start + COLUMNS, len(head.weight))) for start in range(0, len(head.weight), COLUMNS)]
