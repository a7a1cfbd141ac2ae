"""Scalar Python beside the oracle of the laws: lists, loops and `math`, no code shared with what it judges.

Masked entries are never read. N counts the non-empty sequences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

Rows = Sequence[Sequence[float]]


def positions(mask_row: Sequence[bool]) -> list[int]:
    """Where a sequence's tokens stand."""
    return [t for t, is_token in enumerate(mask_row) if is_token]


def mean_log_ratio(logp_row: Sequence[float], old_row: Sequence[float], mask_row: Sequence[bool]) -> float:
    """log s_i of a non-empty sequence, eq. 7."""
    tokens = positions(mask_row)
    return math.fsum(logp_row[t] - old_row[t] for t in tokens) / len(tokens)


def clipped_gain(log_ratio: float, advantage: float, low: float, high: float) -> float:
    """min(r A, clip(r, 1 − low, 1 + high) A), literally."""
    ratio = math.exp(log_ratio)
    return min(ratio * advantage, min(max(ratio, 1.0 - low), 1.0 + high) * advantage)


def gate_open(log_ratio: float, advantage: float, low: float, high: float) -> bool:
    """Whether the gradient passes: only one bound matters, and on the bound it passes."""
    if advantage > 0:
        return log_ratio <= math.log1p(high)
    return log_ratio >= math.log1p(-low) if advantage < 0 else True


def frozen_gspo_token(
    logp: Rows,
    frozen: Rows,
    old: Rows,
    advantage: Rows,
    mask: Sequence[Sequence[bool]],
    low: float,
    high: float,
) -> float:
    """The GSPO-token loss as the stop-gradients mean it: s_i and sg[π] stay at `frozen`, only π(y_it) follows `logp`."""
    n = max(1, sum(any(row) for row in mask))
    terms = []
    for i, mask_row in enumerate(mask):
        tokens = positions(mask_row)
        for t in tokens:
            log_s = mean_log_ratio(frozen[i], old[i], mask_row) + (logp[i][t] - frozen[i][t])
            terms.append(-clipped_gain(log_s, advantage[i][t], low, high) / len(tokens) / n)
    return math.fsum(terms)


def _groups(rewards: Sequence[float], ids: Sequence[int]) -> list[list[Fraction]]:
    return [[Fraction(r) for r, other in zip(rewards, ids, strict=True) if other == mine] for mine in ids]


def centred(rewards: Sequence[float], ids: Sequence[int]) -> list[float]:
    """r_i − mean, in exact fractions."""
    groups = _groups(rewards, ids)
    return [float(Fraction(r) - sum(group) / len(group)) for r, group in zip(rewards, groups, strict=True)]


def leave_one_out(rewards: Sequence[float], ids: Sequence[int]) -> list[float]:
    """r_i − mean of the others; 0 without others."""
    out = []
    for r, group in zip(rewards, _groups(rewards, ids), strict=True):
        others = len(group) - 1
        out.append(float(Fraction(r) - (sum(group) - Fraction(r)) / others) if others else 0.0)
    return out


def zscore(rewards: Sequence[float], ids: Sequence[int], ddof: int = 0, eps: float = 0.0) -> list[float]:
    """(r_i − mean) / (std + eps), GSPO eq. 6; 0 for a constant group."""
    out = []
    for r, group in zip(rewards, _groups(rewards, ids), strict=True):
        mean = sum(group) / len(group)
        squares = sum((x - mean) ** 2 for x in group)
        std = math.sqrt(float(squares / (len(group) - ddof))) if squares else 0.0
        out.append(float(Fraction(r) - mean) / (std + eps) if squares else 0.0)
    return out
