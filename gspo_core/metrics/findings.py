"""What can be found in the numbers of a run, and from where on it is."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class FindingKind(Enum):
    """What can be found. The value says it in general, `Finding.sentence` with the numbers of the run.

    >>> FindingKind.RATIO_IS_ONE.value
    'every ratio is 1 in all updates: nothing can be clipped'
    """

    ALL_MASKED = "no token of the policy: loss and gradient are 0"
    CONSTANT_GROUPS = "no response has an advantage: loss and gradient are 0"
    ALL_CLIPPED = "every response that has an advantage is clipped: the gradient is 0"
    ON_POLICY_CENTRED = "every ratio is 1 and advantages cancel: the loss is 0, the gradient is not"
    RATIO_IS_ONE = "every ratio is 1 in all updates: nothing can be clipped"
    CLIP_RANGE_NARROW = "the clip range is narrower than what log s of most responses is"
    CLIP_RANGE_WIDE = "the clip range is far wider than what log s of any response is"
    LENGTH_WEIGHTED = "a mean over tokens weighs a sequence ratio by the response's length"
    SAMPLER_BIAS = "trainer and sampler do not mean the same distribution"
    NOISE_FLOOR = "the gap between the engines is a good part of the clip range"


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    >>> finding = Finding.of(FindingKind.ALL_MASKED, {"tokens": 0.0}, "{tokens:.0f} tokens.", gradient_is_zero=True)
    >>> finding.sentence, finding.values
    ('0 tokens.', {'tokens': 0.0})
    """

    kind: FindingKind
    sentence: str
    """What was found, with its numbers, and what to do."""
    gradient_is_zero: bool | None
    """True or False where that is what the finding is about, else None."""
    values: Mapping[str, float]
    """The numbers of the sentence, by their names in `summary` where they have one there."""

    @staticmethod
    def of(kind: FindingKind, numbers: Mapping[str, float], sentence: str, *, gradient_is_zero: bool | None = None) -> Finding:
        """With those of the numbers that the sentence names in braces."""
        used = {name: numbers[name] for _, name, _, _ in string.Formatter().parse(sentence) if name}
        return Finding(kind, sentence.format(**used), gradient_is_zero, used)


@dataclass(frozen=True)
class Thresholds:
    """From where on something is worth a sentence. Judgements, not theorems: change them with `dataclasses.replace`.

    >>> Thresholds(clipped=0.4).clipped
    0.4
    """

    still: float = 1e-7
    """Log ratios up to here (nats) are rounding: the policy has not moved."""
    zero_loss: float = 1e-6
    """A loss up to here times the mean |A| is 0."""
    window: int = 2
    """Batches from which on ratios of 1 are no longer the first update of a rollout, where they belong."""
    clipped: float = 0.25
    """Share of the responses with an advantage that may be clipped. Even a range of no width clips no more than about half:
    for each sign of the advantage only one side counts."""
    wide: float = 0.1
    """The largest |log s| has to reach this part of the range."""
    responses: int = 32
    """Fewer do not speak about the clip range or the sampler."""
    unequal_lengths: float = 0.1
    """Standard deviation of the lengths over their mean."""
    sure: float = 4.0
    """Standard errors by which a mean must be off to be a bias."""
    bias: float = 1e-5
    """Gap in probability mass per token that is too small to matter: 10 % of the weight of a 10,000-token response."""
    noise: float = 0.25
    """Standard deviation of the engines' log s over the nearer bound of the clip range."""
