"""Situations of ordinary batches: ratios, clip ranges, lengths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gspo_core import GRPO, GSPO, GSPO_TOKEN, TokenMean, merge
from gspo_core.metrics import FindingKind

from .builders import FITTING, FULL, N, Situation, batch, centred, on_policy_window, pair, ragged, ratios, sampler, spread

TOKEN_MEAN = replace(GSPO_TOKEN, reduction=TokenMean())
WIDE, SHORT = GSPO.with_clip(0.2, 0.2), GSPO.with_clip(0.03, 0.04)

RATIOS = [
    Situation("healthy", lambda: batch(ratios(FITTING), centred()), ()),
    Situation("healthy, with log-probs as of a language model", lambda: pair(spread() + ratios(FITTING), spread()), ()),
    Situation(
        "on policy and centred", lambda: batch(ratios(0), centred()), (FindingKind.ON_POLICY_CENTRED,), False, says="not 0"
    ),
    Situation("ratio 1 without old log-probs", on_policy_window, (FindingKind.RATIO_IS_ONE,), False, says="100% declared"),
    Situation(
        "ratio 1 with old log-probs taken anew each time",
        lambda: merge(*(batch(ratios(0), np.ones(N)) for _ in range(4))),
        (FindingKind.RATIO_IS_ONE,),
        False,
        says="0% declared",
    ),
    Situation(
        "the paper's range for answers of 10 tokens",
        lambda: batch(ratios(0.1)[:, :10], centred(), FULL[:, :10]),
        (FindingKind.CLIP_RANGE_NARROW,),
        says="10 tokens",
    ),
    Situation(
        "0.03 for answers of 10 tokens", lambda: batch(ratios(0.1)[:, :10], centred(), FULL[:, :10], SHORT), (), None, SHORT
    ),
    Situation(
        "GRPO's range for long answers",
        lambda: merge(*(batch(ratios(FITTING, seed), centred(), FULL, WIDE) for seed in (1, 2))),
        (FindingKind.CLIP_RANGE_WIDE,),
        objective=WIDE,
        says="see clip_range_for",
    ),
    Situation(
        "GRPO's range, but only one batch is known",
        lambda: batch(ratios(FITTING), centred(), FULL, WIDE),
        (FindingKind.CLIP_RANGE_WIDE,),
        objective=WIDE,
        says="may be the first",
        never_says="need a range of",
    ),
    Situation(
        "the same range where ratios are tokens'", lambda: batch(ratios(FITTING), centred(), FULL, GRPO), (), objective=GRPO
    ),
    Situation(
        "a mean over tokens",
        lambda: batch(ratios(1e-3), centred(), ragged(), TOKEN_MEAN),
        (FindingKind.LENGTH_WEIGHTED,),
        objective=TOKEN_MEAN,
        says="20 times",
    ),
    Situation("a mean over equal lengths", lambda: batch(ratios(FITTING), centred(), FULL, TOKEN_MEAN), (), None, TOKEN_MEAN),
    Situation("a mean over sequences", lambda: batch(ratios(1e-3), centred(), ragged(), GSPO_TOKEN), (), objective=GSPO_TOKEN),
    Situation(
        "a healthy batch of ten responses",
        lambda: pair((spread() + ratios(FITTING))[:10], spread()[:10]),
        (FindingKind.TOO_FEW_RESPONSES,),
        says="below 32",
    ),
    Situation(
        "ten responses of a sampler",
        lambda: sampler(ratios(FITTING)[:10]),
        (FindingKind.TOO_FEW_RESPONSES,),
        objective=None,
    ),
    Situation(
        "ten responses and no clip range to judge",
        lambda: pair(spread()[:10] + 0.01, spread()[:10], None, GRPO),
        (),
        None,
        GRPO,
    ),
]
