"""Situations of the engine that samples."""

from __future__ import annotations

import math

import numpy as np

from gspo_core import merge
from gspo_core.metrics import FindingKind

from .builders import N, Situation, T, batch, centred, ratios, sampler

SAMPLERS = [
    Situation(
        "top-p that keeps 0.9",
        lambda: sampler(ratios(1e-3) + math.log(0.9)),
        (FindingKind.SAMPLER_BIAS,),
        says="0.9 on average",
    ),
    Situation("−2.8 nats over 9000 tokens", lambda: sampler(np.full((N, 9000), -2.8 / 9000)), (FindingKind.SAMPLER_BIAS,)),
    Situation("engines that agree", lambda: sampler(np.zeros((N, T))), ()),
    Situation("unbiased noise below the range", lambda: sampler(ratios(1e-3) - 5e-7), ()),
    Situation(
        "unbiased noise as wide as the range",
        lambda: sampler(ratios(0.01) - 5e-5),
        (FindingKind.SAMPLER_NOISE,),
        says="clip range's",
    ),
    Situation("the same noise without an objective", lambda: sampler(ratios(0.01) - 5e-5), (), objective=None),
    Situation(
        "two things at once",
        lambda: merge(batch(ratios(0), centred()), sampler(ratios(0.01) - 0.1)),
        (FindingKind.ON_POLICY_CENTRED, FindingKind.SAMPLER_BIAS, FindingKind.SAMPLER_NOISE),
        False,
    ),
]
