"""Sampler corrections in scalar Python; no code shared with what it judges.

Truncated importance sampling: F. Yao et al., 2025; masked: J. Liu et al., 2025, and IcePop, arXiv 2510.18855.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Mask = Sequence[Sequence[bool]]
Rows = Sequence[Sequence[float]]


def token_weights(old: Rows, sampler: Rows, mask: Mask) -> list[list[float]]:
    """π_old/π_sampler per token, 0 where masked."""
    return [
        [math.exp(a - b) if ok else 0.0 for a, b, ok in zip(*row, strict=True)] for row in zip(old, sampler, mask, strict=True)
    ]


def sequence_weights(old: Rows, sampler: Rows, mask: Mask, geometric: bool) -> list[float]:
    """The product over a sequence's tokens, or its |y|-th root; 0 for an empty sequence."""
    out = []
    for row in zip(old, sampler, mask, strict=True):
        gaps = [a - b for a, b, ok in zip(*row, strict=True) if ok]
        out.append(math.exp(math.fsum(gaps) / (len(gaps) if geometric else 1)) if gaps else 0.0)
    return out


def truncated(weight: float, low: float, high: float) -> float:
    """The weight, or the bound it is beyond."""
    return min(max(weight, low), high)


def masked(weight: float, low: float, high: float) -> float:
    """The weight if it is inside the bounds, else 0."""
    return weight if low <= weight <= high else 0.0


def filtered(weight: float, low: float, high: float) -> float:
    """1 inside the bounds, else 0."""
    return 1.0 if low <= weight <= high else 0.0
