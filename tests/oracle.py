"""The papers in scalar Python: lists, loops and `math`, float64; no code shared with what it judges.

Formulas: GSPO, arXiv 2507.18071, eq. 5-7 (GSPO), 13-17 (GSPO-token); GRPO, arXiv 2402.03300, eq. 3; the mean over
tokens is DAPO's, arXiv 2503.14476, eq. 8. Weights are ∂loss/∂logp, derived by hand:

    GSPO        −A_i s_i u_i / (|y_i| N)        GSPO-token   −A_it s_i u_it / (|y_i| N)       GRPO   −A_it w_it u_it / (|y_i| N)

where u is 1 if the gate of min/clip is open and |y_i| N becomes Σ_j |y_j| for a mean over tokens. Masked entries are
never read. N counts the non-empty sequences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

Rows = Sequence[Sequence[float]]


class Verdict(NamedTuple):
    """What a loss must be. Units are sequences for GSPO and tokens (0 or False where masked) otherwise."""

    value: float
    scale: float
    """Σ |term| of the value: rounding errors of the value are in proportion to it."""
    weight: list[list[float]]
    log_ratio: list
    clipped: list


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


def _denominator(mask: Sequence[Sequence[bool]], over_tokens: bool, given: float | None) -> float:
    if given is not None:
        return given
    lengths = [len(positions(row)) for row in mask]
    return float(max(1, sum(lengths) if over_tokens else sum(length > 0 for length in lengths)))


def gspo(
    logp: Rows,
    old: Rows,
    advantage: Sequence[float],
    mask: Sequence[Sequence[bool]],
    low: float,
    high: float,
    denominator: float | None = None,
) -> Verdict:
    """Eq. 5 and its gradient, eq. 10 with the gate."""
    n = _denominator(mask, False, denominator)
    terms, weight, ratios, clipped = [], [], [], []
    for i, mask_row in enumerate(mask):
        tokens = positions(mask_row)
        row = [0.0] * len(mask_row)
        log_s, is_clipped = 0.0, False
        if tokens:
            log_s = mean_log_ratio(logp[i], old[i], mask_row)
            is_clipped = not gate_open(log_s, advantage[i], low, high)
            terms.append(-clipped_gain(log_s, advantage[i], low, high) / n)
            for t in tokens:
                row[t] = 0.0 if is_clipped else -advantage[i] * math.exp(log_s) / len(tokens) / n
        weight.append(row)
        ratios.append(log_s)
        clipped.append(is_clipped)
    return Verdict(math.fsum(terms), math.fsum(map(abs, terms)), weight, ratios, clipped)


def _per_token(
    shared_ratio: bool,
    logp: Rows,
    old: Rows,
    advantage: Rows,
    mask: Sequence[Sequence[bool]],
    low: float,
    high: float,
    over_tokens: bool,
    denominator: float | None,
) -> Verdict:
    n = _denominator(mask, over_tokens, denominator)
    terms: list[float] = []
    weight, ratios, clipped = ([[0.0] * len(row) for row in mask] for _ in range(3))
    for i, mask_row in enumerate(mask):
        tokens = positions(mask_row)
        for t in tokens:
            log_r = mean_log_ratio(logp[i], old[i], mask_row) if shared_ratio else logp[i][t] - old[i][t]
            share = 1.0 / n if over_tokens else 1.0 / len(tokens) / n
            is_open = gate_open(log_r, advantage[i][t], low, high)
            terms.append(-clipped_gain(log_r, advantage[i][t], low, high) * share)
            weight[i][t] = -advantage[i][t] * math.exp(log_r) * share if is_open else 0.0
            ratios[i][t] = log_r
            clipped[i][t] = not is_open
    flags = [[bool(x) for x in row] for row in clipped]
    return Verdict(math.fsum(terms), math.fsum(map(abs, terms)), weight, ratios, flags)


def gspo_token(
    logp: Rows,
    old: Rows,
    advantage: Rows,
    mask: Sequence[Sequence[bool]],
    low: float,
    high: float,
    over_tokens: bool = False,
    denominator: float | None = None,
) -> Verdict:
    """Eq. 13 with s_it = s_i in value, and its gradient, eq. 17 with the gate."""
    return _per_token(True, logp, old, advantage, mask, low, high, over_tokens, denominator)


def grpo(
    logp: Rows,
    old: Rows,
    advantage: Rows,
    mask: Sequence[Sequence[bool]],
    low: float,
    high: float,
    over_tokens: bool = False,
    denominator: float | None = None,
) -> Verdict:
    """GRPO eq. 3 without KL, and its gradient, eq. 12 with the gate."""
    return _per_token(False, logp, old, advantage, mask, low, high, over_tokens, denominator)


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
    n = _denominator(mask, False, None)
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
