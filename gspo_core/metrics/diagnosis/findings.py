"""What `diagnose` can find, and one finding with its sentence and numbers."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

Numbers: TypeAlias = Mapping[str, float]


class FindingKind(Enum):
    """The findings that `diagnose` can make: the value is a general sentence, `Finding.sentence` has the numbers of the run.

    >>> FindingKind.RATIO_IS_ONE.value
    'every ratio is 1 in all updates: nothing can be clipped'
    """

    NOT_FINITE = "log-probs, advantages, the loss or its gradient are NaN or infinite"
    POSITIVE_LOG_PROBS = "log-probs above 0, which no probability has"
    TOKENS_SHIFTED = "the log-probs of two policies belong to neighbouring tokens"
    ROWS_MIXED = "the log-probs of two policies belong to different responses"
    NOTHING_MEASURED = "no batch is in these metrics: nothing can be said about it"
    ALL_MASKED = "no token of the policy: loss and gradient are 0"
    ALL_REJECTED = "the sampler correction rejected every response that has an advantage: the gradient is 0"
    CONSTANT_GROUPS = "no response has an advantage: loss and gradient are 0"
    NO_ADVANTAGE = "no response has an advantage, and these metrics cannot say why"
    ALL_CLIPPED = "every response that has an advantage is clipped: the gradient is 0"
    DOMINANT_RESPONSE = "one response has most of the gradient"
    FAR_APART = "current and old policy differ by more than the updates of a rollout do"
    ON_POLICY_CENTRED = "every ratio is 1 and advantages cancel: the loss is 0, the gradient is not"
    RATIO_IS_ONE = "every ratio is 1 in all updates: nothing can be clipped"
    CLIP_RANGE_NARROW = "the clip range is narrower than |log s| of most responses"
    CLIP_RANGE_WIDE = "the clip range is far wider than |log s| of any response"
    LENGTH_WEIGHTED = "a mean over tokens weighs a sequence ratio by the response's length"
    SAMPLER_BIAS = "trainer and sampler do not compute the same distribution"
    SAMPLER_NOISE = "noise between the engines moves log s by a good part of the clip range"
    TOO_FEW_RESPONSES = "too few responses to judge the clip range or the sampler: nothing found is no good sign"


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
