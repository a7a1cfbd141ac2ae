"""Drift, clip fractions and the mismatch report in scalar loops over rows of token log ratios."""

from __future__ import annotations

import math
from typing import NamedTuple

Rows = list[list[float]]
"""Token log ratios of each response, its own tokens only."""


class Drifted(NamedTuple):
    """κ, mean, variance and design effect of the tokens."""

    kappa: float
    mean: float
    variance: float
    design_effect: float


def flat(rows: Rows) -> list[float]:
    """All tokens."""
    return [x for row in rows for x in row]


def k3(x: float) -> float:
    """e^x − 1 − x, linear beyond 50."""
    return math.expm1(x) - x if x <= 50 else math.exp(50) * (1 + x - 50) - 1 - x


def drift(rows: Rows) -> Drifted:
    """Of a batch."""
    tokens = flat(rows)
    if not tokens:
        return Drifted(0.0, 0.0, 0.0, 1.0)
    mean = math.fsum(tokens) / len(tokens)
    variance = math.fsum((x - mean) ** 2 for x in tokens) / max(1, len(tokens) - 1)
    lengths = [len(row) for row in rows if row]
    effect = 1.0
    if len(lengths) > 1 and variance > 0:
        between = math.fsum((math.fsum(row) - len(row) * mean) ** 2 for row in rows)
        effect = between / (len(tokens) - sum(n * n for n in lengths) / len(tokens)) / variance
    return Drifted(math.fsum(map(k3, tokens)) / len(tokens), mean, variance, effect)


def log_s(row: list[float]) -> float:
    """Mean of the row."""
    return math.fsum(row) / len(row) if row else 0.0


def clipped(row: list[float], advantage: float, low: float, high: float) -> bool:
    """Whether the response's gradient is cut."""
    if not row:
        return False
    ratio = log_s(row)
    return (advantage > 0 and ratio > math.log1p(high)) or (advantage < 0 and ratio < math.log1p(-low))


def spread(values: list[float]) -> float:
    """Standard deviation over responses."""
    mean = math.fsum(values) / max(1, len(values))
    return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / max(1, len(values)))


def correlation(x: list[float], y: list[float]) -> float:
    """Pearson's; 0 if one does not vary."""
    mean_x, mean_y = (math.fsum(v) / max(1, len(v)) for v in (x, y))
    scale = math.sqrt(math.fsum((a - mean_x) ** 2 for a in x) * math.fsum((b - mean_y) ** 2 for b in y))
    return math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / scale if scale > 0 else 0.0


def mass_gap(rows: Rows) -> tuple[float, float]:
    """(mean of e^d − 1 over tokens, its standard error over responses)."""
    rows = [row for row in rows if row]
    if not rows:
        return 0.0, 0.0
    gains, tokens = [[math.expm1(min(x, 20.0)) for x in row] for row in rows], len(flat(rows))
    gap = math.fsum(flat(gains)) / tokens
    off = math.fsum((math.fsum(row) - len(row) * gap) ** 2 for row in gains)
    return gap, math.sqrt(off * (len(rows) / (len(rows) - 1) if len(rows) > 1 else 0.0)) / tokens
