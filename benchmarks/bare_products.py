"""The floor of the LM head's CPU tables: the exact gradient's three matrix products, each by the faster of two libraries.

PyTorch's float32 products go to MKL; the same builds have oneDNN. Which one is faster depends on the processor, the shape
and how the operands lie in memory, so both are timed on one tile before the clock of the benchmark starts. A floor of one
library alone could be undercut by an implementation that uses the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

TILE = (1024, 4080)
"""Rows of hidden states and of the head that meet in one product."""
Product = Callable[[Tensor, Tensor, Tensor, bool], None]
"""(a, b, out, fresh): out = a @ b, or out += a @ b if not fresh."""


def mkl(a: Tensor, b: Tensor, out: Tensor, fresh: bool) -> None:
    """PyTorch's own product."""
    torch.mm(a, b, out=out) if fresh else torch.addmm(out, a, b, out=out)


def onednn(a: Tensor, b: Tensor, out: Tensor, fresh: bool) -> None:
    """The same by oneDNN, which has no product that adds to its result."""
    product = torch.ops.mkldnn._linear_pointwise(a, b.T, None, "none", [], "")
    out.copy_(product) if fresh else out.add_(product)


def available() -> list[Product]:
    """The libraries of this build of PyTorch."""
    has_onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return [mkl, onednn] if has_onednn else [mkl]


def faster(a: Tensor, b: Tensor, out: Tensor, *, repeats: int = 5) -> Product:
    """The library that computes out += a @ b in less CPU time: the least of several runs, taken in turn."""
    seconds: dict[Product, float] = {}
    for attempt in range(repeats + 1):
        for product in available():
            began = time.process_time()
            product(a, b, out, False)
            taken = time.process_time() - began
            if attempt:  # the first one warms up
                seconds[product] = min(taken, seconds.get(product, taken))
    return min(seconds, key=lambda product: seconds[product])


class BareProducts:
    """hidden @ head.T, its transpose with hidden, and itself with head: tile by tile, nothing else."""

    def __init__(self, hidden: Tensor, head: Tensor) -> None:
        self._hidden, self._head = hidden, head
        rows, vectors = hidden[: TILE[0]], head[: TILE[1]]
        tile = torch.zeros(len(rows), len(vectors))
        self._logits = faster(rows, vectors.T, tile)
        self._to_head = faster(tile.T, rows, torch.zeros_like(vectors))
        self._to_hidden = faster(tile, vectors, torch.zeros_like(rows))

    @property
    def libraries(self) -> dict[str, str]:
        """Which library computes which product."""
        chosen = {"logits": self._logits, "head gradient": self._to_head, "hidden gradient": self._to_hidden}
        return {name: product.__name__ for name, product in chosen.items()}

    def run(self) -> tuple[Tensor, Tensor]:
        """The two products in place of the gradients: of the logits themselves, since nothing else is computed."""
        hidden, head = self._hidden, self._head
        d_hidden, d_head = torch.empty_like(hidden), torch.empty_like(head)
        buffer = torch.empty(TILE[0] * TILE[1])
        for start in range(0, len(head), TILE[1]):
            vectors, sums = head[start : start + TILE[1]], d_head[start : start + TILE[1]]
            for top in range(0, len(hidden), TILE[0]):
                rows, own = hidden[top : top + TILE[0]], d_hidden[top : top + TILE[0]]
                tile = buffer[: len(rows) * len(vectors)].view(len(rows), len(vectors))
                self._logits(rows, vectors.T, tile, True)
                self._to_head(tile.T, rows, sums, top == 0)
                self._to_hidden(tile, vectors, own, start == 0)
        return d_hidden, d_head
