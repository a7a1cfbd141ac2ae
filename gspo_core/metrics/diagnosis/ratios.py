"""Findings about ratios: those that do not move, a clip range that does not fit, and weights by length."""

from __future__ import annotations

import math

from gspo_core.objectives.loss import Objective
from gspo_core.objectives.ratios import Sequence, SequenceToken

from .findings import Finding, FindingKind, Numbers
from .thresholds import Thresholds


def unmoved(numbers: Numbers, limits: Thresholds) -> list[Finding]:
    """Ratios that are all 1: a mistake over several updates, as it should be in the first one."""
    if "log_s_min" not in numbers or max(-numbers["log_s_min"], numbers["log_s_max"], numbers["token_std"]) > limits.still:
        return []
    zero = abs(numbers["loss"]) <= limits.zero_loss * numbers["advantage_abs_mean"]
    if updates_of(numbers) >= limits.window:
        sentence = (
            "Every ratio is 1 in all {updates:.3g} updates ({batches:.0f} batches, {on_policy:.0%} declared on policy): "
            "clipping does nothing. That is right for one update per rollout, and for micro-batches or ranks that divide by "
            "their own count. With more updates per rollout, take the old log-probs once, before the first, and see that the "
            "steps move the weights."
        )
        sentence += " That the loss is 0 ({loss:.2g}) is right; its gradient is not 0 ({gradient:.2g})." if zero else ""
        return [Finding.of(FindingKind.RATIO_IS_ONE, numbers, sentence, gradient_is_zero=False)]
    sentence = (
        "The loss is 0 ({loss:.2g}) since every ratio is 1 and advantages cancel (mean {advantage_mean:.2g}): as it should be "
        "in the first update. The gradient is not 0 (Σ|weight| = {gradient:.2g})."
    )
    return [Finding.of(FindingKind.ON_POLICY_CENTRED, numbers, sentence, gradient_is_zero=False)] if zero else []


def updates_of(numbers: Numbers) -> float:
    """Optimizer steps, without the rounding of the shares that their micro-batches have."""
    return round(numbers["updates"], 3)


def band_of(objective: Objective | None) -> tuple[float, float] | None:
    """Bounds of log s below and above 0, as positive numbers, if the objective clips log s."""
    if objective is None or not isinstance(objective.ratio, (Sequence, SequenceToken)):
        return None
    low, high = (getattr(objective.surrogate, side, None) for side in ("low", "high"))
    return None if low is None or high is None else (-math.log1p(-low), math.log1p(high))


def clip_range(numbers: Numbers, objective: Objective | None, limits: Thresholds) -> list[Finding]:
    """Judged by where log s lies, not by ε: short answers need 0.03 where long ones need 3e-4."""
    band = band_of(objective)
    if band is None or numbers.get("sequences", 0.0) < limits.responses or "log_s_min" not in numbers:
        return []
    largest = max(-numbers["log_s_min"], numbers["log_s_max"])
    share = numbers["clip_active"] / (1.0 - numbers["zero_advantage"])
    numbers = {**numbers, "low": band[0], "high": band[1], "largest": largest, "share": share}
    advice = " Answers of {length_mean:.0f} tokens need a range of about {log_s_rms:.2g}; see clip_range_for."
    if share > limits.clipped and numbers["abs_log_s_q50"] > max(band):
        sentence = (
            "Half of the responses have |log s| above {abs_log_s_q50:.2g}, beyond the clip range of −{low:.2g} to {high:.2g}, "
            "and {share:.0%} of those with an advantage are clipped."
        )
        return [Finding.of(FindingKind.CLIP_RANGE_NARROW, numbers, sentence + advice)]
    if limits.still < largest < limits.wide * min(band):
        sentence = "The largest |log s| is {largest:.2g}, the clip range −{low:.2g} to {high:.2g}: it never acts."
        if updates_of(numbers) < limits.window:
            advice = " One update may be the first of a rollout, in which nothing has moved: judge all of its updates together."
        return [Finding.of(FindingKind.CLIP_RANGE_WIDE, numbers, sentence + advice)]
    return []


def length_weighted(numbers: Numbers, objective: Objective | None, limits: Thresholds) -> list[Finding]:
    """A sequence ratio averaged over tokens: a common mistake that can also be meant, so it is reported and not refused."""
    if objective is None or not (isinstance(objective.ratio, SequenceToken) and objective.reduction.sums_tokens):
        return []
    if "sequences" not in numbers or numbers["length_std"] <= limits.unequal_lengths * numbers["length_mean"]:
        return []
    sentence = (
        "A mean over tokens gives a response of {length_max:.0f} tokens {times:.3g} times the weight of one of "
        "{length_min:.0f}, though each has one ratio. GSPO takes SequenceMean()."
    )
    times = numbers["length_max"] / numbers["length_min"]
    return [Finding.of(FindingKind.LENGTH_WEIGHTED, {**numbers, "times": times}, sentence)]


def too_few(numbers: Numbers, objective: Objective | None, limits: Thresholds) -> list[Finding]:
    """Nothing was found, but nothing was looked for either."""
    counted = {"batch": numbers.get("sequences", 0.0) if band_of(objective) else 0.0}
    counted["sampler"] = numbers.get("sampler_sequences", 0.0)
    few = {name: count for name, count in counted.items() if 0 < count < limits.responses}
    if not few:
        return []
    sentence = (
        "{responses:.0f} responses are too few: neither the clip range nor the sampler is judged below {least:.0f}. Merge the "
        "metrics of more batches."
    )
    known = {"responses": max(few.values()), "least": float(limits.responses)}
    return [Finding.of(FindingKind.TOO_FEW_RESPONSES, known, sentence)]
