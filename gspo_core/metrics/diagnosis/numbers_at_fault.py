"""Numbers that cannot be right: NaN and infinities, probabilities above 1, log-probs of other tokens or other responses."""

from __future__ import annotations

import math

from .findings import Finding, FindingKind, Numbers
from .thresholds import Thresholds

_PAIRS = {"": "logp and old_logp", "sampler_": "old_logp and sampler_logp"}
_TOTALS = ("loss", "gradient", "advantage_mean", "log_s_rms", "sampler_log_s_rms", "sampler_mass_gap", "sampler_mass_gap_error")


def not_finite(numbers: Numbers) -> list[Finding]:
    """What is NaN or infinite: every comparison with it is False, so that nothing else would be said about it."""
    counts = {
        "not_finite": "{not_finite:.0f} of {tokens:.0f} tokens in logp or old_logp",
        "sampler_not_finite": "{sampler_not_finite:.0f} of {sampler_tokens:.0f} tokens in old_logp or sampler_logp",
        "not_finite_advantages": "{not_finite_advantages:.0f} of {sequences:.0f} advantages",
    }
    found = [text for name, text in counts.items() if numbers.get(name, 0.0) > 0]
    broken = [f"{name} = {{{name}}}" for name in _TOTALS if not math.isfinite(numbers.get(name, 0.0))]
    if not found and not broken:
        return []
    sentence = f"NaN or infinite: {'; '.join(found + broken)}."
    if numbers.get("not_finite", 0.0) or numbers.get("sampler_not_finite", 0.0):
        sentence += (
            " A log-prob of −∞, or beyond −1e8, is a token that one policy cannot choose (top-k, padding of the vocabulary), "
            "NaN comes from an overflow. Their responses are left out of the numbers of log s: find them, and leave them out "
            "of the loss."
        )
    if numbers.get("not_finite_advantages", 0.0):
        sentence += " Look at the rewards of these responses, and at what normalises them."
    if not found:
        sentence += " Every log-prob and advantage that was measured is finite: the numbers overflow on the way to the loss."
    if numbers.get("batches") and "log_s_rms" not in numbers:
        sentence += " No response is left of which log s could be judged."
    return [Finding.of(FindingKind.NOT_FINITE, numbers, sentence)]


def impossible(numbers: Numbers, limits: Thresholds, prefix: str) -> list[Finding]:
    """At most one reason why the log-probs of a pair of policies cannot be right; the prefix is that of its numbers."""
    tokens, sequences = (numbers.get(f"{prefix}{name}", 0.0) for name in ("tokens", "sequences"))
    if not tokens:
        return []
    unlike = numbers.get(f"{prefix}unlikeness", 0.0)
    pair = {"positive": 0.0, "positive_max": 0.0, "design_effect": math.nan}
    pair |= {name: numbers[f"{prefix}{name}"] for name in pair if f"{prefix}{name}" in numbers}
    pair |= {"tokens": tokens, "unlike": unlike, "token_std": numbers.get(f"{prefix}token_std", 0.0)}
    if pair["positive_max"] > limits.positive:
        sentence = (
            f"{{positive:.0f}} of {{tokens:.0f}} tokens have a log-prob above 0 in {_PAIRS[prefix]} (the largest is "
            "{positive_max:.3g}): no probability is above 1, and what is computed from these numbers means nothing. "
        )
        if pair["positive"] > tokens / 2:
            sentence += "A cross entropy is −log p and needs its sign changed, a probability needs its logarithm."
        else:
            sentence += "Most are not: was log-softmax computed in low precision, or were its results changed afterwards?"
        return [Finding.of(FindingKind.POSITIVE_LOG_PROBS, pair, sentence)]
    if unlike <= limits.unlike or tokens - sequences < limits.responses:
        return []
    sentence = (
        f"Within responses {_PAIRS[prefix]} have nothing to do with each other: the variance of their difference is "
        "{unlike:.0%} of that of two unrelated arrays (standard deviation {token_std:.2g} nats). "
    )
    if pair["design_effect"] < limits.telescoped:
        sentence += (
            "Over a response the differences cancel (design effect {design_effect:.2g}): one of the two is shifted, probably "
            "by one token. The log-prob of token t comes from the logits at t − 1."
        )
        return [Finding.of(FindingKind.TOKENS_SHIFTED, pair, sentence)]
    sentence += (
        "They are probably of different responses: shuffle, sort and split both together, with the mask and the advantages."
    )
    return [Finding.of(FindingKind.ROWS_MIXED, pair, sentence)]
