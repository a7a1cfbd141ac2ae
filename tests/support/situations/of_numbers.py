"""Situations with numbers that cannot be right."""

from __future__ import annotations

import math

import numpy as np
from support.inputs.metric_cases import on_layout

from gspo_core import GRPO, GSPO, Packed, merge
from gspo_core.metrics import FindingKind, Metrics
from gspo_core.mismatch import MIS

from .builders import FITTING, FULL, N, Situation, batch, centred, corrected, masked, pair, poisoned, ratios, sampler, spread

NEAR = ratios(1e-3, tokens=100)
OLD = spread(100)
BIAS, BROKEN, POSITIVE = FindingKind.SAMPLER_BIAS, FindingKind.NOT_FINITE, FindingKind.POSITIVE_LOG_PROBS

NOT_FINITE = [
    Situation(
        "one NaN among the log-probs",
        lambda: batch(poisoned(ratios(FITTING), math.nan), centred()),
        (BROKEN,),
        says="1 of 64000",
    ),
    *(
        Situation(f"one {value} among the old log-probs", lambda value=value: pair(OLD + NEAR, poisoned(OLD, value)), (BROKEN,))
        for value in (math.nan, math.inf)
    ),
    Situation(
        "one −∞ among the old log-probs, whose response is then infinitely likelier",
        lambda: pair(OLD + NEAR, poisoned(OLD, -math.inf)),
        (BROKEN, FindingKind.DOMINANT_RESPONSE),
    ),
    Situation(
        "a token at −∞ under both policies",
        lambda: pair(poisoned(OLD, -math.inf), poisoned(OLD - NEAR, -math.inf)),
        (BROKEN,),
        says="1 of 6400 tokens",
    ),
    Situation(
        "every response has a token at −∞",
        lambda: pair(np.where(np.arange(100) == 7, -math.inf, OLD + NEAR), OLD),
        (BROKEN, FindingKind.ALL_CLIPPED),
        says="No response is left",
        never_says=" Widen",
    ),
    Situation(
        "one NaN among the advantages",
        lambda: pair(OLD + NEAR, OLD, np.where(np.arange(N) == 3, math.nan, centred())),
        (BROKEN,),
        says="rewards",
        never_says="top-k",
    ),
    Situation(
        "one NaN, and a clip range that is too narrow for the others",
        lambda: pair(poisoned(OLD - 1 + 100 * NEAR, math.nan), OLD - 1),
        (BROKEN, FindingKind.CLIP_RANGE_NARROW),
    ),
    Situation("one NaN from the sampler", lambda: sampler(poisoned(ratios(1e-3), math.nan)), (BROKEN,), says="64000 tokens"),
    *(
        Situation(
            f"one {value} from the sampler does not hide a top-p that keeps 0.9",
            lambda value=value: sampler(poisoned(ratios(1e-3) + math.log(0.9), value)),
            (BROKEN, BIAS),
        )
        for value in (math.nan, math.inf, -math.inf, -1e9, float(np.finfo(np.float32).min))
    ),
    Situation(
        "one −∞ does not hide it under a correction of whole responses either",
        lambda: sampler(poisoned(ratios(1e-3) + math.log(0.9), math.inf), MIS),
        (BROKEN, FindingKind.ALL_REJECTED, BIAS),
    ),
    Situation(
        "the correction rejected everything, since the sampler has −∞ everywhere",
        lambda: corrected(MIS, np.where(np.arange(1000) == 5, math.inf, 0.0) * FULL, centred()),
        (BROKEN, FindingKind.ALL_REJECTED),
        None,
        says="64 of 64000",
    ),
]
POSITIVE_NUMBERS = [
    Situation("a cross entropy in place of log-probs", lambda: pair(-OLD - NEAR, -OLD), (POSITIVE,), says="needs its sign"),
    Situation(
        "probabilities in place of log-probs", lambda: pair(np.exp(OLD + NEAR), np.exp(OLD)), (POSITIVE,), says="logarithm"
    ),
    Situation("old log-probs alone have the wrong sign", lambda: pair(OLD + NEAR, -OLD), (POSITIVE,), never_says="clip range"),
    Situation("the sampler's have the wrong sign", lambda: sampler(2 * OLD, old=OLD), (POSITIVE,), says="sampler_logp"),
    Situation(
        "a cross entropy, with a sampler's",
        lambda: merge(pair(-OLD - NEAR, -OLD), sampler(NEAR, old=-OLD)),
        (POSITIVE,),
        never_says="sampler",
    ),
    Situation(
        "a log-softmax in low precision",
        lambda: pair(np.where(OLD > -0.11, 0.03, OLD + NEAR), OLD),
        (POSITIVE,),
        says="in low precision",
        never_says="cross entropy",
    ),
    Situation("rounding above 0", lambda: pair(np.where(OLD > -0.11, 1e-6, OLD), OLD), (), objective=GRPO),
]


def packed(logp: np.ndarray, old: np.ndarray) -> Metrics:
    """The same rows in one axis."""
    return on_layout(GSPO, logp.ravel(), old.ravel(), centred(), Packed(np.repeat(np.arange(N), logp.shape[1]), N))


UNLIKE = [
    Situation("shifted by a token", lambda: pair(np.roll(OLD + NEAR, 1, 1), OLD), (FindingKind.TOKENS_SHIFTED,), says="t − 1"),
    Situation("shifted the other way", lambda: pair(OLD + NEAR, np.roll(OLD, 1, 1)), (FindingKind.TOKENS_SHIFTED,)),
    Situation("shifted in packed rows", lambda: packed(np.roll(OLD + NEAR, 1), OLD), (FindingKind.TOKENS_SHIFTED,)),
    Situation(
        "rows permuted",
        lambda: pair(np.roll(OLD + NEAR, 1, 0), OLD),
        (FindingKind.ROWS_MIXED,),
        says="shuffle",
        never_says="clip range",
    ),
    Situation("rows in the reverse order", lambda: pair((OLD + NEAR)[::-1], OLD), (FindingKind.ROWS_MIXED,)),
    Situation(
        "the sampler's rows permuted",
        lambda: sampler(OLD - np.roll(OLD, 1, 0), old=OLD),
        (FindingKind.ROWS_MIXED,),
        says="sampler",
    ),
    Situation(
        "the sampler's tokens shifted", lambda: sampler(OLD - np.roll(OLD, 1, 1), old=OLD), (FindingKind.TOKENS_SHIFTED,)
    ),
    Situation(
        "another temperature for the old log-probs",
        lambda: pair(OLD * 1.6, OLD),
        (FindingKind.FAR_APART,),
        says="temperature",
        never_says="see clip_range_for",
    ),
    Situation(
        "noise of a nat in one of the two policies", lambda: pair(OLD - np.abs(1000 * NEAR), OLD), (FindingKind.FAR_APART,)
    ),
    Situation(
        "all masked and a sampler of other rows",
        lambda: masked(sampler(OLD - OLD[::-1], old=OLD)),
        (FindingKind.ALL_MASKED, FindingKind.ROWS_MIXED),
        True,
    ),
]
