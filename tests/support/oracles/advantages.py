"""More advantages in scalar Python: exact fractions until the last square root; no code shared with what it judges.

Formulas: mean of the group and std of the batch, arXiv 2508.08221; MaxRL, arXiv 2602.02710; GDPO, arXiv 2601.05242.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

Judge = Callable[[Sequence[float], Sequence[int]], list[float]]


def _mean(numbers: Sequence[Fraction]) -> Fraction:
    return sum(numbers, Fraction(0)) / len(numbers)


def _group_mean(rewards: Sequence[float], ids: Sequence[int], label: int) -> Fraction:
    return _mean([Fraction(r) for r, own in zip(rewards, ids, strict=True) if own == label])


def _std(numbers: Sequence[float], ddof: int) -> float:
    exact = [Fraction(x) for x in numbers]
    squares = sum((x - _mean(exact)) ** 2 for x in exact)
    return math.sqrt(float(squares / (len(exact) - ddof))) if squares else 0.0


def batch_std(rewards: Sequence[float], ids: Sequence[int], ddof: int = 0, eps: float = 0.0) -> list[float]:
    """(r_i − mean of the group) / (std of all rewards + eps); 0 if all rewards are equal."""
    std = _std(rewards, ddof)
    if std == 0.0:
        return [0.0 for _ in rewards]
    return [float(Fraction(r) - _group_mean(rewards, ids, label)) / (std + eps) for r, label in zip(rewards, ids, strict=True)]


def maxrl(rewards: Sequence[float], ids: Sequence[int]) -> list[float]:
    """(r_i − mean) / mean; 0 where the mean is not positive."""
    means = [_group_mean(rewards, ids, label) for label in ids]
    return [float((Fraction(r) - mean) / mean) if mean > 0 else 0.0 for r, mean in zip(rewards, means, strict=True)]


def length_weighted(rewards: Sequence[float], ids: Sequence[int], lengths: Sequence[int]) -> list[float]:
    """r_i − Σ L r / Σ L over the group; OPO, arXiv 2505.23585. The mean of a group without a token is the plain one's."""
    out = []
    for r, label in zip(rewards, ids, strict=True):
        mine = [(Fraction(x), n) for x, own, n in zip(rewards, ids, lengths, strict=True) if own == label]
        total = sum(n for _, n in mine)
        baseline = sum((x * n for x, n in mine), Fraction(0)) / total if total else _mean([x for x, _ in mine])
        out.append(float(Fraction(r) - baseline))
    return out


def best_of_group(rewards: Sequence[float], ids: Sequence[int]) -> list[float]:
    """max of the group − max of the others; 0 without others. Pass@k with k = G, arXiv 2503.19595."""
    out = []
    for i, label in enumerate(ids):
        others = [r for j, (r, own) in enumerate(zip(rewards, ids, strict=True)) if own == label and j != i]
        out.append(float(Fraction(max([rewards[i], *others])) - Fraction(max(others))) if others else 0.0)
    return out


def without_invalid(judge: Judge, rewards: Sequence[float], ids: Sequence[int], valid: Sequence[bool]) -> list[float]:
    """The judge's verdict on the valid responses alone, and 0 for the others."""
    kept = [i for i, ok in enumerate(valid) if ok]
    verdict = judge([rewards[i] for i in kept], [ids[i] for i in kept]) if kept else []
    found = dict(zip(kept, verdict, strict=True))
    return [found.get(i, 0.0) for i in range(len(rewards))]


def decoupled(parts: Sequence[Sequence[float]], weights: Sequence[float], scaled: bool) -> list[float]:
    """Σ_k w_k A_ik of advantages A_k, then divided by the batch's population standard deviation."""
    total = [math.fsum(w * part[i] for w, part in zip(weights, parts, strict=True)) for i in range(len(parts[0]))]
    if not scaled:
        return total
    mean = math.fsum(total) / len(total)
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in total) / len(total))
    return [x / std if std else 0.0 for x in total]


def to_go(row: Sequence[float]) -> list[float]:
    """Sums of what is left, from each turn on."""
    return [math.fsum(row[m:]) for m in range(len(row))]
