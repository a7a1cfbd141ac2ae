"""Why a gradient is exactly 0."""

from __future__ import annotations

import math

from .findings import Finding, FindingKind, Numbers
from .size import are_far_apart
from .thresholds import Thresholds


def no_gradient(numbers: Numbers, limits: Thresholds) -> list[Finding]:
    """Why the gradient is exactly 0, if it is."""
    if "sequences" not in numbers:
        return _no_tokens(numbers)
    if numbers["gradient"] != 0:
        return []
    if numbers["zero_advantage"] == 1:
        return [_no_advantage(numbers)]
    sentence = "All responses that have an advantage are clipped, or their ratio is 0 ({clip_active:.0%} of {sequences:.0f}"
    sentence += "; log s from {log_s_min:.2g} to {log_s_max:.2g})" if "log_s_min" in numbers else ")"
    sentence += ": the gradient is 0."
    if "log_s_min" in numbers and not are_far_apart(numbers, limits):
        sentence += " Widen the clip range, or take fewer or smaller steps on each rollout."
    else:
        sentence += " Do not widen the clip range before you know why the policies are so far apart."
    return [Finding.of(FindingKind.ALL_CLIPPED, numbers, sentence, gradient_is_zero=True)]


def _no_tokens(numbers: Numbers) -> list[Finding]:
    """There is no batch: everything was masked or rejected, or no batch was merged in."""
    if numbers.get("sampler_rejected") == 1:
        return [_rejected(numbers)]
    if "empty_sequences" in numbers:
        sentence = "None of {empty_sequences:.0f} responses has a token of the policy: loss and gradient are 0. "
        if numbers.get("sampler_sequences", 0.0) > 0:
            sentence += "The sampler's {sampler_sequences:.0f} had some, so compare the layout of the loss with theirs."
        else:
            sentence += "Check the mask: it is true where the policy wrote a token, not at the prompt or at padding."
        return [Finding.of(FindingKind.ALL_MASKED, numbers, sentence, gradient_is_zero=True)]
    if "sampler_sequences" in numbers:
        return []
    sentence = "There is no batch in these metrics ({batches:.0f}): merge those of batch_metrics to learn more about it."
    return [Finding.of(FindingKind.NOTHING_MEASURED, {"batches": 0.0}, sentence)]


def _no_advantage(numbers: Numbers) -> Finding:
    """All advantages are 0: because of the rewards, because of the correction, or for a reason that is not in the metrics."""
    rejected = numbers.get("sampler_rejected", 0.0)
    if rejected == 1:
        return _rejected(numbers)
    if _without_signal(numbers) == 1:
        return _groups_without_signal(numbers)
    # A group that is not constant has two responses or more with an advantage: fewer rejected ones cannot be the reason.
    if "groups" in numbers and 0 < rejected >= 2.0 * (1.0 - _without_signal(numbers)) / numbers["group_size"]:
        return _rejected(numbers)
    sentence = "None of {sequences:.0f} responses has an advantage, and nothing is learned. These metrics cannot say why: "
    if "groups" in numbers:
        sentence += "{constant_groups:.0%} of {groups:.0f} groups are constant, which is not the reason. Look at what changes "
        sentence += "advantages between group_advantages and the loss."
    else:
        sentence += "merge group_metrics to see whether groups are constant, and sampler_metrics to see what was rejected."
    return Finding.of(FindingKind.NO_ADVANTAGE, numbers, sentence, gradient_is_zero=True)


def _without_signal(numbers: Numbers) -> float:
    """Share of the groups that have nothing but zeros; −1 if it was not measured."""
    return round(numbers["constant_groups"] + numbers["single_groups"], 12) if "groups" in numbers else -1.0


def _groups_without_signal(numbers: Numbers) -> Finding:
    sentence = "None of {sequences:.0f} responses has an advantage"
    if numbers["single_groups"] == 1:
        sentence += ": each of {groups:.0f} groups has {group_size:.0f} response and no other to compare it with. "
    elif numbers["single_groups"] > 0:
        sentence += (
            ", and nothing is learned: {constant_groups:.0%} of {groups:.0f} groups are constant, all rewards of such a "
        )
        sentence += "group being equal, and {single_groups:.0%} have one response and no other to compare it with. "
    else:
        sentence += ": all rewards of a group are equal, and nothing is learned. Use prompts that are neither always nor never "
        sentence += "solved. {constant_groups:.0%} of {groups:.0f} groups are constant."
    if numbers["single_groups"] > 0:
        sentence += "group_ids are equal for the responses to one prompt; sample several of them."
    return Finding.of(FindingKind.CONSTANT_GROUPS, numbers, sentence, gradient_is_zero=True)


def _rejected(numbers: Numbers) -> Finding:
    sentence = (
        "The sampler correction rejected {sampler_rejected:.0%} of what it weighed ({sampler_sequences:.0f} responses), and "
        "with it every advantage: the gradient is 0. Raw weights are {sampler_raw_mean:.3g} on average. Find out why trainer "
        "and sampler disagree before you loosen its bounds; the weight of a whole response leaves them sooner the longer it is."
    )
    if _without_signal(numbers) == 1:
        sentence += " None of {groups:.0f} groups has a signal either, unless group_metrics was given the weighted advantages."
    elif "groups" in numbers:
        sentence += " Rewards are not the reason: {constant_groups:.0%} of {groups:.0f} groups are constant."
    numbers = {"sampler_raw_mean": math.nan, **numbers}
    return Finding.of(FindingKind.ALL_REJECTED, numbers, sentence, gradient_is_zero=True)
