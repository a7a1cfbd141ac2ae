"""Why a gradient is exactly 0."""

from __future__ import annotations

from .findings import Finding, FindingKind, Numbers


def no_gradient(numbers: Numbers) -> list[Finding]:
    """Why the gradient is exactly 0, if it is."""
    if "sequences" not in numbers:
        return _no_tokens(numbers)
    if numbers["gradient"] != 0:
        return []
    if numbers["zero_advantage"] == 1:
        return [_no_advantage(numbers)]
    sentence = (
        "All responses that have an advantage are clipped ({clip_active:.0%} of {sequences:.0f}; log s from {log_s_min:.2g} to "
        "{log_s_max:.2g}): the gradient is 0. Widen the clip range, or take fewer or smaller steps on each rollout."
    )
    return [Finding.of(FindingKind.ALL_CLIPPED, numbers, sentence, gradient_is_zero=True)]


def _no_tokens(numbers: Numbers) -> list[Finding]:
    """There is no batch: everything was masked or rejected, or no batch was merged in."""
    if numbers.get("sampler_rejected") == 1:
        return [_rejected(numbers)]
    if "sampler_sequences" in numbers:
        return []
    sentence = (
        "There is no token of the policy in these metrics ({tokens:.0f}): check the mask, if a batch was merged into them."
    )
    zero = None if numbers else True
    return [Finding.of(FindingKind.ALL_MASKED, {"tokens": 0.0}, sentence, gradient_is_zero=zero)]


def _no_advantage(numbers: Numbers) -> Finding:
    """All advantages are 0: because of the rewards, because of the correction, or for a reason that is not in the metrics."""
    if numbers.get("constant_groups") == 1:
        sentence = (
            "None of {sequences:.0f} responses has an advantage: all rewards of a group are equal, and nothing is learned. "
            "Use prompts that are neither always nor never solved. {constant_groups:.0%} of {groups:.0f} groups are constant."
        )
        return Finding.of(FindingKind.CONSTANT_GROUPS, numbers, sentence, gradient_is_zero=True)
    rejected = numbers.get("sampler_rejected", 0.0)
    if rejected == 1 or (rejected > 0 and "groups" in numbers):
        return _rejected(numbers)
    sentence = "None of {sequences:.0f} responses has an advantage, and nothing is learned. These metrics cannot say why: "
    if "groups" in numbers:
        sentence += "{constant_groups:.0%} of {groups:.0f} groups are constant, which is not the reason. Look at what changes "
        sentence += "advantages between group_advantages and the loss."
    else:
        sentence += "merge group_metrics to see whether groups are constant, and sampler_metrics to see what was rejected."
    return Finding.of(FindingKind.NO_ADVANTAGE, numbers, sentence, gradient_is_zero=True)


def _rejected(numbers: Numbers) -> Finding:
    sentence = (
        "The sampler correction rejected {sampler_rejected:.0%} of what it weighed ({sampler_sequences:.0f} responses), and "
        "with it every advantage: the gradient is 0. Raw weights are {sampler_raw_mean:.3g} on average. Find out why trainer "
        "and sampler disagree before you loosen its bounds; the weight of a whole response leaves them sooner the longer it is."
    )
    sentence += (
        " Rewards are not the reason: {constant_groups:.0%} of {groups:.0f} groups are constant." if "groups" in numbers else ""
    )
    return Finding.of(FindingKind.ALL_REJECTED, numbers, sentence, gradient_is_zero=True)
