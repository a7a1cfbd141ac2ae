"""Findings about the size of what moves: one response's part in the gradient, and the distance of the two policies."""

from __future__ import annotations

import math

from .findings import Finding, FindingKind, Numbers
from .thresholds import Thresholds


def dominant(numbers: Numbers, limits: Thresholds) -> list[Finding]:
    """One response has most of the gradient, and whether that is its advantage or its ratio."""
    share = numbers.get("gradient_share", 0.0)
    if share <= limits.dominant:
        return []
    moving = numbers["sequences"] * (1.0 - numbers["zero_advantage"] - numbers["clip_active"])
    if round(moving) < limits.crowd:
        return []
    total = numbers["advantage_abs_mean"] * numbers["sequences"]
    sentence = "One response has {gradient_share:.1%} of the gradient, which {moving:.0f} share. "
    if numbers["advantage_abs_max"] > 0.5 * share * total:
        sentence += (
            "The reason is its advantage: the largest |A| is {advantage_abs_max:.3g}, the mean {advantage_abs_mean:.3g}. Look "
            "at its reward, and whether the advantages were divided by a deviation near 0."
        )
    else:
        sentence += (
            "The reason is its ratio or its length (log s from {log_s_min:.2g} to {log_s_max:.2g}, {length_min:.0f} to "
            "{length_max:.0f} tokens): look at its log-probs."
        )
        if numbers.get("positive_max", 0.0) <= limits.positive:
            sentence += " Where A < 0 no clip range bounds the ratio; DualClip does."
    numbers = {"log_s_min": math.nan, "log_s_max": math.nan, **numbers, "moving": moving}
    return [Finding.of(FindingKind.DOMINANT_RESPONSE, numbers, sentence, gradient_is_zero=False)]


def are_far_apart(numbers: Numbers, limits: Thresholds) -> bool:
    """Whether log π and log π_old differ by more, at a typical token, than updates do."""
    return _distance(numbers) > limits.far


def far_apart(numbers: Numbers, limits: Thresholds) -> list[Finding]:
    """Ratios that no clip range is meant for."""
    if not are_far_apart(numbers, limits):
        return []
    sentence = (
        "logp and old_logp differ by {distance:.2g} nats (root mean square over tokens), more than a rollout's updates do. "
        "If it is so in the first update, they are not of the same policy and text: compare temperature, dropout, weights "
        "and prompts. If it grows from update to update, take fewer or smaller steps. A wider clip range would hide it."
    )
    return [Finding.of(FindingKind.FAR_APART, {**numbers, "distance": _distance(numbers)}, sentence)]


def _distance(numbers: Numbers) -> float:
    """√(mean of d²); 0 if it was not measured."""
    return math.hypot(numbers.get("token_std", 0.0), numbers.get("kl_k1_per_token", 0.0))
