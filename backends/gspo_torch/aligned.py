"""The aligned scheme: chunks of whole sequences, whose weights are known while their logits are at hand.

Three matrix products instead of two-pass's four, and one exponential: with E = exp(z − max) of a chunk, [n, V], and the rows'
weights c, the gradients are

    ∂/∂h_t = c_t w[y_t] − (c_t/Σ E_t) E_t W        ∂/∂W = Σ_t c_t h_t at row y_t − Eᵀ (c/ΣE · h)

so that weights scale the small operands and E is used as it stands. A sequence too long for the buffer goes two-pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import two_pass
from .blocks import Weights, matmul, tile_scores
from .head import Head
from .two_pass import Gradients

CACHE = 2**18
"""Logits that are exponentiated at a time: 1 MiB of float32, which stays in a core's cache."""
COLUMNS = 4096
"""Rows of a low-precision head that are widened at a time."""
GAP = 32
"""Dead rows that are carried along, weightless: another pass over the head's gradient costs more."""

Weigh = Callable[[slice, Tensor], Tensor]
"""(rows, their log-probs) ↦ their weights c. The rows hold whole sequences."""


class Chunk(NamedTuple):
    """Consecutive rows."""

    rows: slice
    fits: bool
    """Whether their logits fit into the buffer."""


def chunks(lengths: list[int], capacity: int) -> list[Chunk]:
    """Whole sequences of these lengths, in order, as many together as `capacity` rows allow; longer ones alone.

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
    """Distance of a row's logits from the next row's. Rows a power of two apart would compete for the same cache lines.

    >>> stride(32768), stride(50257), stride(512)  # 64 bytes more; not divisible anyway; small anyway
    (32784, 50257, 512)
    """
    return vocabulary + 16 if vocabulary % 128 == 0 and vocabulary >= 4096 else vocabulary


def run(head: Head, rows: Tensor, tokens: Tensor, cut: list[Chunk], weigh: Weigh, into: Gradients) -> Tensor:
    """[n] log-probs of all rows; the gradients, in the accumulator's dtype, are added to `into`."""
    wide = head.wide(rows)
    logp = torch.empty(len(rows), dtype=wide, device=rows.device)
    longest = max((chunk.rows.stop - chunk.rows.start for chunk in cut if chunk.fits), default=0)
    buffer = torch.empty(longest * stride(len(head.weight)), dtype=wide, device=rows.device)
    for chunk in cut:
        part = chunk.rows
        if chunk.fits:
            total, picked = _exponentiate(head, rows[part], tokens[part], buffer)
            logp[part] = picked
            own = into._replace(hidden=None if into.hidden is None else into.hidden[part])
            _add(head, rows[part], tokens[part], weigh(part, picked), total, buffer, own)
        else:
            scored = two_pass.forward(head, rows[part], tokens[part])
            logp[part] = scored.logp
            own = into._replace(hidden=None if into.hidden is None else into.hidden[part])
            weights = Weights(weigh(part, scored.logp), scored.lse, None, None)
            two_pass.backward(head, rows[part], tokens[part], weights, own, add=True)
    return logp


def _exponentiate(head: Head, rows: Tensor, tokens: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """([n] Σ E, [n] log-probs); E = exp(z − max) is left in the buffer, [n, V]."""
    vocabulary, wide = len(head.weight), head.wide(rows)
    tile = _logits(buffer, len(rows), vocabulary)
    rows = rows.to(wide)
    for block in _columns(head, wide):
        matmul(rows, head.weight[block].T, tile[:, block])
    total = torch.empty(len(rows), dtype=wide, device=rows.device)
    logp = torch.empty_like(total)
    step = max(1, CACHE // vocabulary)
    for top in range(0, len(rows), step):
        part = slice(top, top + step)
        if head.bias is not None:
            tile[part] += head.bias
        if head.temperature != 1.0:
            tile[part] /= head.temperature
        seen = tile_scores(tile[part], tokens[part], head.first, entropy=False)
        total[part] = seen.total
        logp[part] = seen.picked - seen.best - seen.total.log()
    return total, logp


def _add(head: Head, rows: Tensor, tokens: Tensor, c: Tensor, total: Tensor, buffer: Tensor, into: Gradients) -> None:
    """Adds the gradients of a chunk whose exponentials stand in the buffer."""
    tile = _logits(buffer, len(rows), len(head.weight))
    wide = tile.dtype
    sharp = c.to(wide) / head.temperature
    for run in live_runs(c):
        e, h, picked = tile[run], rows[run].to(wide), tokens[run]
        hit, miss = sharp[run, None], (sharp[run] / total[run])[:, None]
        if into.weight is not None:
            into.weight.addmm_(e.T, h * -miss).index_add_(0, picked, h * hit)
        if into.bias is not None:
            into.bias.addmv_(e.T, -miss[:, 0]).index_add_(0, picked, hit[:, 0])
        if into.hidden is not None:
            own = into.hidden[run]
            for block in _columns(head, wide):
                matmul(e[:, block], head.weight[block], own, fresh=block.start == 0)
            own.mul_(-miss).addcmul_(head.weight[picked].to(wide), hit)


def _logits(buffer: Tensor, rows: int, vocabulary: int) -> Tensor:
    """[rows, V] of the buffer."""
    return buffer[: rows * stride(vocabulary)].view(rows, stride(vocabulary))[:, :vocabulary]


def _columns(head: Head, wide: torch.dtype) -> list[slice]:
    """Blocks of the vocabulary: one, unless the head has to be widened."""
    step = len(head.weight) if head.weight.dtype == wide else COLUMNS
    return [slice(start, min(start + step, len(head.weight))) for start in range(0, len(head.weight), max(1, step))]


def live_runs(c: Tensor) -> list[slice]:
    """Runs of rows with a weight, gaps shorter than GAP included.

    >>> live_runs(torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0]))
    [slice(1, 4, None)]
    """
    runs: list[slice] = []
    for row in torch.nonzero(c)[:, 0].tolist():
        if runs and row - runs[-1].stop < GAP:
            runs[-1] = slice(runs[-1].start, row + 1)
        else:
            runs.append(slice(row, row + 1))
    return runs
