"""Metrics in nested scalar loops over plain lists, float64; no code shared with what they judge.

Definitions as in `gspo_core.summary`. Masked entries are never read. What has no value (a mean of nothing) is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from support.oracles.loss import Rows, positions

from gspo_core.laws.kit.oracle import ScalarLoss

Numbers = dict[str, float]
Mask = Sequence[Sequence[bool]]


def mean(values: Sequence[float]) -> float:
    """Of at least one number."""
    return math.fsum(values) / len(values)


def spread(values: Sequence[float]) -> float:
    """Population standard deviation."""
    return math.sqrt(mean([(x - mean(values)) ** 2 for x in values]))


def log_ratios(new: Rows, old: Rows, mask: Mask, key: str, prefix: str) -> Numbers:
    """Mean, spread and divergences of log new − log old."""
    rows = [[new[i][t] - old[i][t] for t in positions(row)] for i, row in enumerate(mask) if positions(row)]
    if not rows:
        return {}
    every, means = [x for row in rows for x in row], [mean(row) for row in rows]
    found = {
        f"{key}_mean": mean(means),
        f"{key}_std": spread(means),
        f"{key}_rms": math.sqrt(mean([m * m for m in means])),
        f"{key}_min": min(means),
        f"{key}_max": max(means),
        f"{prefix}token_std": spread(every),
        f"{prefix}kl_k1_per_token": mean([-x for x in every]),
        f"{prefix}kl_k3_per_token": mean([math.expm1(x) - x for x in every]),
        f"{prefix}kl_k1_per_sequence": mean([math.fsum(-x for x in row) for row in rows]),
        f"{prefix}kl_k3_per_sequence": mean([math.fsum(math.expm1(x) - x for x in row) for row in rows]),
    }
    olds = [[old[i][t] for t in positions(row)] for i, row in enumerate(mask) if positions(row)]
    news = [[new[i][t] for t in positions(row)] for i, row in enumerate(mask) if positions(row)]
    larger = max(within(olds), within(news))
    if larger > 1e-4 * len(every):
        found[f"{prefix}unlikeness"] = within(rows) / (2 * larger)
    middle, tokens = mean(every), len(every)
    total = math.fsum((x - middle) ** 2 for x in every)
    together = math.fsum(math.fsum(x - middle for x in row) ** 2 for row in rows)
    if len(rows) > 1 and total > 0:
        between = tokens - sum(len(row) ** 2 for row in rows) / tokens
        found[f"{prefix}design_effect"] = (together / between) / (total / (tokens - 1))
    return found


def within(rows: Sequence[Sequence[float]]) -> float:
    """Σ of the squared distances from each row's own mean."""
    return math.fsum((x - mean(row)) ** 2 for row in rows for x in row)


def log_probs(new: Rows, old: Rows, mask: Mask, prefix: str) -> Numbers:
    """What is no number or stands for an infinity, and what is above 0."""
    pairs = [(new[i][t], old[i][t]) for i, row in enumerate(mask) for t in positions(row)]
    largest = [max(pair) for pair in pairs if all(abs(x) < 1e8 for x in pair)]
    return {
        f"{prefix}not_finite": float(len(pairs) - len(largest)),
        f"{prefix}positive": float(sum(x > 0 for x in largest)),
        f"{prefix}positive_max": max(0.0, *largest, 0.0),
    }


def of_advantages(verdict: ScalarLoss, per_token: bool, advantage: Rows, mask: Mask) -> Numbers:
    """The largest share of the gradient, the largest advantage, and log ratios beyond 50."""
    rows = [(i, positions(row)) for i, row in enumerate(mask) if positions(row)]
    gradients = [math.fsum(abs(verdict.weight[i][t]) for t in slots) for i, slots in rows]
    ratios = [verdict.log_ratio[i][t] if per_token else verdict.log_ratio[i] for i, slots in rows for t in slots]
    advantages = [advantage[i][t] for i, slots in rows for t in slots]
    found = {
        "advantage_abs_max": max(mean([abs(advantage[i][t]) for t in slots]) for i, slots in rows),
        "not_finite_advantages": 0.0,
        "continued": float(sum(a != 0 and r > 50 for a, r in zip(advantages, ratios, strict=True))),
    }
    total = math.fsum(gradients)
    return found | ({"gradient_share": max(gradients) / total} if total > 0 else {})


def order_statistic(values: Sequence[float], q: float) -> float:
    """The ⌈q n⌉-th smallest."""
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


def clipping(verdict: ScalarLoss, per_token: bool, advantage: Rows, log_s: Sequence[float], mask: Mask) -> Numbers:
    """Shares of sequences and of tokens with an advantage and no gradient."""
    names = ["clip_active", "clip_low", "clip_high"]
    sequences, tokens, clipped = 0, 0, dict.fromkeys([*names, *(f"{n}_tokens" for n in names)], 0)
    zero = 0
    for i, row in enumerate(mask):
        slots = positions(row)
        sequences, tokens = sequences + bool(slots), tokens + len(slots)
        with_advantage = [t for t in slots if advantage[i][t] != 0]
        silent = [t for t in with_advantage if verdict.weight[i][t] == 0]
        zero += bool(slots) and not with_advantage
        if with_advantage and silent == with_advantage:
            clipped["clip_active"] += 1
            clipped["clip_low"] += log_s[i] < 0
            clipped["clip_high"] += log_s[i] > 0
        for t in silent:
            ratio = verdict.log_ratio[i][t] if per_token else verdict.log_ratio[i]
            clipped["clip_active_tokens"] += 1
            clipped["clip_low_tokens"] += ratio < 0
            clipped["clip_high_tokens"] += ratio > 0
    if not sequences:
        return {}
    shares = {name: count / (tokens if name.endswith("tokens") else sequences) for name, count in clipped.items()}
    return shares | {"zero_advantage": zero / sequences}


def batch(verdict: ScalarLoss, per_token: bool, new: Rows, old: Rows, advantage: Rows, mask: Mask) -> Numbers:
    """Everything of one batch but the gradient's size, the loss and quantiles."""
    lengths = [len(positions(row)) for row in mask if positions(row)]
    empty = {"empty_sequences": float(len(mask) - len(lengths))}
    if not lengths:
        return empty if any(empty.values()) else {}
    log_s = [mean([new[i][t] - old[i][t] for t in positions(row)]) if positions(row) else 0.0 for i, row in enumerate(mask)]
    s = [math.exp(min(x, 20.0)) for x, row in zip(log_s, mask, strict=True) if positions(row)]
    advantages = [[advantage[i][t] for t in positions(row)] for i, row in enumerate(mask) if positions(row)]
    found = {
        "batches": 1.0,
        "updates": 1.0,
        "on_policy": 0.0,
        "sequences": float(len(lengths)),
        "tokens": float(sum(lengths)),
        "length_mean": mean(lengths),
        "length_std": spread(lengths),
        "length_min": float(min(lengths)),
        "length_max": float(max(lengths)),
        "loss": verdict.value,
        "gradient": math.fsum(abs(verdict.weight[i][t]) for i, row in enumerate(mask) for t in positions(row)),
        "advantage_mean": mean([mean(row) for row in advantages]),
        "advantage_abs_mean": mean([mean([abs(x) for x in row]) for row in advantages]),
        "ess": math.fsum(s) ** 2 / (len(s) * math.fsum(x * x for x in s)),
    }
    found |= empty | log_probs(new, old, mask, "") | of_advantages(verdict, per_token, advantage, mask)
    found |= clipping(verdict, per_token, advantage, log_s, mask)
    return found | log_ratios(new, old, mask, "log_s", "")


def table(verdict: ScalarLoss, advantage: Rows, mask: Mask) -> dict[tuple[int, int], tuple[int, int]]:
    """(octave of the length, sign of the advantage's sum) ↦ (sequences, clipped ones)."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for i, row in enumerate(mask):
        slots = positions(row)
        if not slots:
            continue
        octave, total = len(slots).bit_length() - 1, math.fsum(advantage[i][t] for t in slots)
        live = [t for t in slots if advantage[i][t] != 0]
        clipped = bool(live) and all(verdict.weight[i][t] == 0 for t in live)
        cell = octave, (total > 0) - (total < 0)
        before = found.get(cell, (0, 0))
        found[cell] = before[0] + 1, before[1] + clipped
    return found
