"""What the numbers of a run mean, in words: why a loss is 0, whether the clip range fits, what the sampler does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

from gspo_core.objectives.loss import Objective
from gspo_core.objectives.ratios import Sequence, SequenceToken

from .findings import Finding, FindingKind, Thresholds
from .ledger import Metrics
from .readings import summary

Numbers: TypeAlias = Mapping[str, float]


_DEFAULT = Thresholds()


def diagnose(metrics: Metrics, objective: Objective | None = None, *, thresholds: Thresholds = _DEFAULT) -> tuple[Finding, ...]:
    """What deserves a sentence, most severe first; nothing if all is well. Reads the numbers: it waits for the device.

    Of the reasons for a loss of 0 at most one is given. `metrics` should be those of at least one rollout with all of its
    updates: in the first one every ratio is 1 by right.

    Args:
        metrics: of `batch_metrics`, and of `group_metrics` and `sampler_metrics` where there are any, merged.
        objective: what was trained with; None leaves out what depends on its clip range or reduction.
        thresholds: from where on something is worth a sentence.

    Returns: `Finding`s.

    Raises: TypeError for a wrong kind.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded, batch_metrics, policy_loss
    >>> logp, layout = np.full((2, 3), -1.0), Padded(np.full((2, 3), True))
    >>> batch = (logp, logp, np.array([1.0, -1.0]), layout)
    >>> for finding in diagnose(batch_metrics(GSPO, policy_loss(GSPO, *batch), *batch), GSPO):
    ...     print(finding.kind.name, finding.gradient_is_zero)
    ON_POLICY_CENTRED False
    """
    if objective is not None and not isinstance(objective, Objective):
        raise TypeError(f"objective: expected an Objective such as GSPO, got {type(objective).__name__}")
    numbers = summary(metrics)
    found = _no_gradient(numbers) or [*_unmoved(numbers, thresholds), *_clip_range(numbers, objective, thresholds)]
    return (*found, *_length_weighted(numbers, objective, thresholds), *_sampler(numbers, objective, thresholds))


def _no_gradient(numbers: Numbers) -> list[Finding]:
    """Why the gradient is exactly 0, if it is."""
    if not numbers:
        sentence = "There is no token of the policy in these metrics ({tokens:.0f}): check the mask."
        return [Finding.of(FindingKind.ALL_MASKED, {"tokens": 0.0}, sentence, gradient_is_zero=True)]
    if "sequences" not in numbers or numbers["gradient"] != 0:
        return []
    if numbers["zero_advantage"] == 1:
        sentence = (
            "None of {sequences:.0f} responses has an advantage: all rewards of a group are equal, and nothing is learned. "
            "Use prompts that are neither always nor never solved."
        )
        sentence += " {constant_groups:.0%} of {groups:.0f} groups are constant." if "groups" in numbers else ""
        return [Finding.of(FindingKind.CONSTANT_GROUPS, numbers, sentence, gradient_is_zero=True)]
    sentence = (
        "All responses that have an advantage are clipped ({clip_active:.0%} of {sequences:.0f}; log s from {log_s_min:.2g} to "
        "{log_s_max:.2g}): the gradient is 0. Widen the clip range, or take fewer or smaller steps on each rollout."
    )
    return [Finding.of(FindingKind.ALL_CLIPPED, numbers, sentence, gradient_is_zero=True)]


def _unmoved(numbers: Numbers, limits: Thresholds) -> list[Finding]:
    """Ratios that are all 1: over a window a mistake, in the first update the rule."""
    if "sequences" not in numbers or max(-numbers["log_s_min"], numbers["log_s_max"], numbers["token_std"]) > limits.still:
        return []
    zero = abs(numbers["loss"]) <= limits.zero_loss * numbers["advantage_abs_mean"]
    if numbers["batches"] >= limits.window:
        sentence = (
            "Every ratio is 1 in all {batches:.0f} batches ({on_policy:.0%} declared on policy): clipping does nothing. "
            "With more than one update per rollout, take the old log-probs once, before the first."
        )
        sentence += " That the loss is 0 ({loss:.2g}) is right; its gradient is not 0 ({gradient:.2g})." if zero else ""
        return [Finding.of(FindingKind.RATIO_IS_ONE, numbers, sentence, gradient_is_zero=False)]
    sentence = (
        "The loss is 0 ({loss:.2g}) since every ratio is 1 and advantages cancel (mean {advantage_mean:.2g}): as it should be "
        "in the first update. The gradient is not 0 (Σ|weight| = {gradient:.2g})."
    )
    return [Finding.of(FindingKind.ON_POLICY_CENTRED, numbers, sentence, gradient_is_zero=False)] if zero else []


def _band(objective: Objective | None) -> tuple[float, float] | None:
    """Bounds of log s below and above 0, as positive numbers, if the objective clips log s."""
    if objective is None or not isinstance(objective.ratio, (Sequence, SequenceToken)):
        return None
    low, high = (getattr(objective.surrogate, side, None) for side in ("low", "high"))
    return None if low is None or high is None else (-math.log1p(-low), math.log1p(high))


def _clip_range(numbers: Numbers, objective: Objective | None, limits: Thresholds) -> list[Finding]:
    """Judged by where log s lies, not by ε: short answers need 0.03 where long ones need 3e-4."""
    band = _band(objective)
    if band is None or numbers.get("sequences", 0.0) < limits.responses or numbers["zero_advantage"] == 1:
        return []
    largest = max(-numbers["log_s_min"], numbers["log_s_max"])
    share = numbers["clip_active"] / (1.0 - numbers["zero_advantage"])
    numbers = {**numbers, "low": band[0], "high": band[1], "largest": largest, "share": share}
    advice = " Answers of {length_mean:.0f} tokens want a range of about {log_s_rms:.2g}; see clip_range_for."
    if share > limits.clipped and numbers["abs_log_s_q50"] > max(band):
        sentence = (
            "Half of the responses have |log s| above {abs_log_s_q50:.2g}, beyond the clip range of −{low:.2g} to {high:.2g}, "
            "and {share:.0%} of those with an advantage are clipped."
        )
        return [Finding.of(FindingKind.CLIP_RANGE_NARROW, numbers, sentence + advice)]
    if limits.still < largest < limits.wide * min(band):
        sentence = "The largest |log s| is {largest:.2g}, the clip range −{low:.2g} to {high:.2g}: it never acts."
        return [Finding.of(FindingKind.CLIP_RANGE_WIDE, numbers, sentence + advice)]
    return []


def _length_weighted(numbers: Numbers, objective: Objective | None, limits: Thresholds) -> list[Finding]:
    """The commonest mistake of trainers, here a choice: it is worth a sentence, not an error."""
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


def _sampler(numbers: Numbers, objective: Objective | None, limits: Thresholds) -> list[Finding]:
    """A shift of the mean is a bias, the spread is noise."""
    if "sampler_mass" not in numbers or numbers["sampler_sequences"] < limits.responses:
        return []
    found = []
    # The standard error of a mean of e^x, x normal; tokens of a response are not independent.
    spread = math.sqrt(math.expm1(min(numbers["sampler_token_std"] ** 2, 50.0)))
    error = spread * math.sqrt(max(1.0, numbers.get("sampler_design_effect", 1.0)) / numbers["sampler_tokens"])
    if abs(numbers["sampler_mass"] - 1.0) > max(limits.bias, limits.sure * error):
        sentence = (
            "Per token, π_old/π_sampler is {sampler_mass:.5g} on average and should be 1 (± {error:.2g}); its log has the mean "
            "{sampler_log_mean:.3g}. That is no noise: compare temperature, top-p and top-k, and from which logits the engine "
            "reports. A top-p that keeps 0.9 gives 0.9."
        )
        found.append(Finding.of(FindingKind.SAMPLER_BIAS, {**numbers, "error": error}, sentence))
    band = _band(objective)
    if band and numbers["sampler_log_std"] > limits.noise * min(band):
        sentence = (
            "Between the engines alone log s has the standard deviation {sampler_log_std:.2g}, {share:.0%} of the clip range's "
            "nearer bound ({nearer:.2g}). Take old log-probs from the trainer, or a sampler of higher precision."
        )
        nearer = {"nearer": min(band), "share": numbers["sampler_log_std"] / min(band) if min(band) else math.inf}
        found.append(Finding.of(FindingKind.NOISE_FLOOR, {**numbers, **nearer}, sentence))
    return found
