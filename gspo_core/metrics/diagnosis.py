"""The meaning of a run's metrics, in sentences: why a loss is 0, whether the clip range fits, what the sampler does."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from gspo_core.mismatch.mass_gap import NEGLIGIBLE, SURE, is_bias
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.ratios import Sequence, SequenceToken

from .ledger import Metrics
from .readings import summary

Numbers: TypeAlias = Mapping[str, float]


class FindingKind(Enum):
    """The findings that `diagnose` can make: the value is a general sentence, `Finding.sentence` has the numbers of the run.

    >>> FindingKind.RATIO_IS_ONE.value
    'every ratio is 1 in all updates: nothing can be clipped'
    """

    NOT_FINITE = "a loss, a gradient or a statistic of the sampler is NaN or infinite: what depends on it cannot be judged"
    ALL_MASKED = "no token of the policy: loss and gradient are 0"
    ALL_REJECTED = "the sampler correction rejected every response that has an advantage: the gradient is 0"
    CONSTANT_GROUPS = "no response has an advantage: loss and gradient are 0"
    NO_ADVANTAGE = "no response has an advantage, and these metrics cannot say why"
    ALL_CLIPPED = "every response that has an advantage is clipped: the gradient is 0"
    ON_POLICY_CENTRED = "every ratio is 1 and advantages cancel: the loss is 0, the gradient is not"
    RATIO_IS_ONE = "every ratio is 1 in all updates: nothing can be clipped"
    CLIP_RANGE_NARROW = "the clip range is narrower than |log s| of most responses"
    CLIP_RANGE_WIDE = "the clip range is far wider than |log s| of any response"
    LENGTH_WEIGHTED = "a mean over tokens weighs a sequence ratio by the response's length"
    SAMPLER_BIAS = "trainer and sampler do not compute the same distribution"
    SAMPLER_NOISE = "noise between the engines moves log s by a good part of the clip range"


@dataclass(frozen=True)
class Finding:
    """One problem that was found, or one surprise that is none.

    >>> finding = Finding.of(FindingKind.ALL_MASKED, {"tokens": 0.0}, "{tokens:.0f} tokens.", gradient_is_zero=True)
    >>> finding.sentence, finding.values
    ('0 tokens.', {'tokens': 0.0})
    """

    kind: FindingKind
    sentence: str
    """The finding with its numbers, and what to do about it."""
    gradient_is_zero: bool | None
    """True or False if the finding is about the size of the gradient, else None."""
    values: Mapping[str, float]
    """The numbers of the sentence, by their names in `summary` where they have one there."""

    @staticmethod
    def of(kind: FindingKind, numbers: Mapping[str, float], sentence: str, *, gradient_is_zero: bool | None = None) -> Finding:
        """The finding whose sentence is filled in with `numbers`; it keeps those that the sentence names in braces."""
        used = {name: numbers[name] for _, name, _, _ in string.Formatter().parse(sentence) if name}
        return Finding(kind, sentence.format(**used), gradient_is_zero, used)


@dataclass(frozen=True)
class Thresholds:
    """The limits beyond which `diagnose` reports something: judgements, not theorems.

    >>> Thresholds(clipped=0.4).clipped
    0.4
    """

    still: float = 1e-7
    """Log ratios up to this size are rounding: the policy has not moved; nats."""
    zero_loss: float = 1e-6
    """A loss up to this share of the mean |A| counts as 0."""
    window: int = 2
    """With this many batches or more, ratios that are all 1 are a mistake. In the first update of a rollout they are right."""
    clipped: float = 0.25
    """Share of the responses with an advantage that may be clipped. Even a range of no width clips no more than about half:
    for each sign of the advantage only one side counts."""
    wide: float = 0.1
    """Share of the clip range that the largest |log s| has to reach."""
    responses: int = 32
    """Minimum number of responses before anything is said about the clip range or the sampler."""
    unequal_lengths: float = 0.1
    """Standard deviation of the lengths over their mean, from which on a weight by length matters."""
    sure: float = SURE
    """Standard errors by which the sampler's mass gap must be off to be a bias."""
    negligible: float = NEGLIGIBLE
    """A mass gap per token that is too small to matter: 10 % of the weight of a 10,000-token response."""
    noise: float = 0.25
    """Standard deviation of log s between the engines over the nearer bound of the clip range, from which on it is reported."""


_DEFAULT = Thresholds()


def diagnose(metrics: Metrics, objective: Objective | None = None, *, thresholds: Thresholds = _DEFAULT) -> tuple[Finding, ...]:
    """Findings about a run, most severe first; none if all is well. It reads the numbers, and so waits for the device.

    Of the reasons for a loss of 0 at most one is given, and where these metrics cannot tell it, that is said. They should cover
    at least one rollout with all of its updates: in the first update every ratio is 1, as it should be.

    Args:
        metrics: of `batch_metrics`, and of `group_metrics` and `sampler_metrics` where there are any, merged.
        objective: what was trained with; None leaves out what depends on its clip range or reduction.
        thresholds: the limits beyond which something is reported.

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
    return (
        *_not_finite(numbers),
        *found,
        *_length_weighted(numbers, objective, thresholds),
        *_sampler(numbers, objective, thresholds),
    )


def _not_finite(numbers: Numbers) -> list[Finding]:
    """What is NaN or infinite: every comparison with it is False, so that nothing else would be said about it."""
    names = ("loss", "gradient", "log_s_rms", "sampler_log_s_rms", "sampler_mass_gap", "sampler_mass_gap_error")
    broken = [name for name in names if not math.isfinite(numbers.get(name, 0.0))]
    if not broken:
        return []
    listed = ", ".join(f"{name} = {{{name}}}" for name in broken)
    sentence = (
        f"Not finite: {listed}. One NaN or infinite log-prob or advantage is enough. What depends on these numbers cannot be "
        "judged, and nothing said about it does not mean that all is well: find the response, and leave it out."
    )
    return [Finding.of(FindingKind.NOT_FINITE, numbers, sentence)]


def _no_gradient(numbers: Numbers) -> list[Finding]:
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


def _unmoved(numbers: Numbers, limits: Thresholds) -> list[Finding]:
    """Ratios that are all 1: a mistake over several updates, as it should be in the first one."""
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
    advice = " Answers of {length_mean:.0f} tokens need a range of about {log_s_rms:.2g}; see clip_range_for."
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


def _sampler(numbers: Numbers, objective: Objective | None, limits: Thresholds) -> list[Finding]:
    """The sampling engine: a mean of π_old/π_sampler other than 1 is a bias, the spread of log s is noise."""
    if "sampler_mass_gap_error" not in numbers or numbers["sampler_sequences"] < limits.responses:
        return []
    found = []
    if is_bias(numbers["sampler_mass_gap"], numbers["sampler_mass_gap_error"], limits.sure, limits.negligible):
        sentence = (
            "Per token, π_old/π_sampler is {mass:.5g} on average and should be 1, with a standard error of "
            "{sampler_mass_gap_error:.2g}. Its log has the mean {sampler_log_s_mean:.3g} over responses. Noise would "
            "average out: compare temperature, top-p and top-k, and the logits from which the engine computes its log-probs. A "
            "top-p of 0.9 gives about 0.9."
        )
        mass = {**numbers, "mass": 1.0 + numbers["sampler_mass_gap"]}
        found.append(Finding.of(FindingKind.SAMPLER_BIAS, mass, sentence))
    band = _band(objective)
    if band and numbers["sampler_log_s_std"] > limits.noise * min(band):
        sentence = (
            "Between trainer and sampler alone, before any update, log s has the standard deviation {sampler_log_s_std:.2g}, "
            "{share:.0%} of the clip range's nearer bound ({nearer:.2g}). Take old log-probs from the trainer, or a sampler of "
            "higher precision."
        )
        nearer = {"nearer": min(band), "share": numbers["sampler_log_s_std"] / min(band) if min(band) else math.inf}
        found.append(Finding.of(FindingKind.SAMPLER_NOISE, {**numbers, **nearer}, sentence))
    return found
