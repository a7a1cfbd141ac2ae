"""The aligned scheme: chunks of whole sequences, whose weights are computed while their logits are still in memory.

Three matrix products instead of two-pass's four, and one exponential. Of a sequence that is too long for the buffer the logits
of a part of the vocabulary are kept, and the others are computed again: between three products and four.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import exponentials, two_pass
from .blocks import Weights
from .exponentials import Space
from .head import Head
from .two_pass import Gradients

Weigh = Callable[[slice, Tensor], Tensor]
"""(rows, their log-probs) ↦ their weights c. The rows hold whole sequences."""


class Buffer(NamedTuple):
    """Memory for logits, in numbers, of a head with so many tokens."""

    size: int
    vocabulary: int

    @property
    def rows(self) -> int:
        """Number of rows of logits that it holds."""
        return self.size // stride(self.vocabulary)

    def kept(self, rows: int) -> int:
        """Number of columns that it holds of more rows than that, whole blocks of them, beside one block of the others.

        >>> Buffer(10 * 20000, 20000).kept(15), Buffer(10 * 20000, 20000).kept(50)
        (8160, 0)
        """
        block = exponentials.COLUMNS
        fit = (self.size // max(1, rows) - block) // block * block
        return fit if 0 < stride(fit) + block <= self.size // max(1, rows) else max(0, fit - block)


class Chunk(NamedTuple):
    """Consecutive rows."""

    rows: slice
    kept: int
    """Number of columns of the vocabulary whose logits are kept; 0: the rows are computed in two passes."""


def chunks(lengths: list[int], buffer: Buffer) -> list[Chunk]:
    """Chunks of whole sequences of these lengths, in order: as many as fit into the buffer, or one longer sequence alone.

    >>> [(chunk.rows.start, chunk.rows.stop, chunk.kept) for chunk in chunks([2, 2, 9, 1], Buffer(4 * 300, 300))]
    [(0, 4, 300), (4, 13, 0), (13, 14, 300)]
    """
    cut: list[Chunk] = []
    for length in lengths:
        start = cut[-1].rows.stop if cut else 0
        last = cut[-1] if cut and cut[-1].kept == buffer.vocabulary else None
        if last is not None and start + length - last.rows.start <= buffer.rows:
            cut[-1] = last._replace(rows=slice(last.rows.start, start + length))
        else:
            kept = buffer.vocabulary if length <= buffer.rows else buffer.kept(length)
            cut.append(Chunk(slice(start, start + length), kept))
    return cut


def stride(columns: int) -> int:
    """Distance between the logits of two rows. Rows that are a power of two apart would compete for the same cache lines.

    >>> stride(32768), stride(50257), stride(512)  # 64 bytes more; not divisible anyway; small anyway
    (32784, 50257, 512)
    """
    return columns + 16 if columns % 128 == 0 and columns >= 4096 else columns


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
    memory = torch.empty(max((_size(chunk, head) for chunk in cut), default=0), dtype=wide, device=rows.device)
    if into.hidden is not None:
        into.hidden.zero_()
    fresh = True  # no chunk has been written to the head's gradients yet
    for chunk in cut:
        part = chunk.rows
        inputs, own = (head, rows[part], tokens[part]), into._replace(hidden=None if into.hidden is None else into.hidden[part])
        if chunk.kept:
            space = _space(memory, chunk, head)
            found = exponentials.exponentiate(*inputs, space, entropy)
            scored = found.scored
            fresh = not exponentials.add(*inputs, weigh(part, scored.logp), found, space, own, fresh) and fresh
        else:
            fresh = _clear(into, fresh)
            scored = two_pass.forward(*inputs, entropy)
            two_pass.backward(*inputs, Weights(weigh(part, scored.logp), scored.lse, None, None), own, add=True)
        logp[part] = scored.logp
        if uncertainty is not None and scored.entropy is not None:
            uncertainty[part] = scored.entropy
    _clear(into, fresh)
    return Seen(logp, uncertainty)


def _clear(into: Gradients, fresh: bool) -> bool:
    """Set the head's gradients to 0 if `fresh`. Returns False, the new value of `fresh`."""
    for gradient in (into.weight, into.bias):
        if gradient is not None and fresh:
            gradient.zero_()
    return False


def _size(chunk: Chunk, head: Head) -> int:
    """Numbers of memory that a chunk needs."""
    spare = exponentials.COLUMNS if 0 < chunk.kept < len(head.weight) else 0
    rows: int = chunk.rows.stop - chunk.rows.start
    return rows * (stride(chunk.kept) + spare)


def _space(memory: Tensor, chunk: Chunk, head: Head) -> Space:
    """The memory as that of a chunk."""
    rows, distance = chunk.rows.stop - chunk.rows.start, stride(chunk.kept)
    return Space(memory[: rows * distance].view(rows, distance)[:, : chunk.kept], memory[rows * distance : _size(chunk, head)])
