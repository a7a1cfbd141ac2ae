"""Situations in which nothing is learned, or one response learns for all."""

from __future__ import annotations

import numpy as np
from support.inputs.metric_cases import on_layout

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Padded, group_metrics, merge
from gspo_core.metrics import FindingKind, left_out_metrics
from gspo_core.mismatch import MIS, Correction, Mask, ProductWeight
from gspo_core.objectives import DAPO

from .builders import (
    FITTING,
    FULL,
    GROUPS,
    N,
    Situation,
    batch,
    centred,
    corrected,
    masked,
    pair,
    ragged,
    ratios,
    sampler,
    spread,
)

HALF = np.where(GROUPS < 4, 0.005, 0.0)[:, None] * FULL
LENGTHS = np.where(np.arange(N) == 5, 1000, 1)
BOUNDED = Correction(ProductWeight(), Mask(0.0, 3.0, drop=True))


def one_row(size: float, rows: int = N, where: int = 0) -> np.ndarray:
    """Fitting noise, and one response that is `size` nats likelier at every token."""
    d = ratios(FITTING)[:rows]
    d[where] += size
    return d


def against(where: int, rows: int = N) -> np.ndarray:
    """Advantages of which the given one is negative."""
    advantage = centred()[:rows]
    advantage[where] = -1.0
    return advantage


def one_solved(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(z-scores of a group with one solved response, others 0; log ratios that clip every second one of its others)."""
    others, rows = -1 / np.sqrt(size - 1.0), np.arange(N)
    advantage = np.where(rows < size, others, 0.0)
    advantage[0] = np.sqrt(size - 1.0)
    d = ratios(1e-3)
    d[1:size:2] -= 1e-3
    return advantage, d


NO_GRADIENT = [
    Situation(
        "all groups constant", lambda: batch(ratios(FITTING), np.zeros(N)), (FindingKind.CONSTANT_GROUPS,), True, says="100%"
    ),
    Situation("constant and on policy", lambda: batch(ratios(0), np.zeros(N)), (FindingKind.CONSTANT_GROUPS,), True),
    Situation(
        "every response its own group",
        lambda: merge(pair(spread(), spread(), np.zeros(N)), group_metrics(np.zeros(N), np.arange(N))),
        (FindingKind.CONSTANT_GROUPS,),
        True,
        says="group_ids are equal",
        never_says="neither always nor never solved",
    ),
    Situation(
        "half of the groups have one response, the others are constant",
        lambda: merge(
            pair(spread(), spread(), np.zeros(N)), group_metrics(np.zeros(N), np.where(GROUPS < 4, np.arange(N), N + GROUPS))
        ),
        (FindingKind.CONSTANT_GROUPS,),
        True,
        says="89% have one response",
    ),
    Situation(
        "no advantage for a reason that was not measured",
        lambda: pair(FULL - 2.0, FULL - 2.0, np.zeros(N)),
        (FindingKind.NO_ADVANTAGE,),
        True,
        says="cannot say why",
    ),
    Situation(
        "no advantage although groups differ",
        lambda: merge(pair(FULL - 2.0, FULL - 2.0, np.zeros(N)), group_metrics(centred(), GROUPS)),
        (FindingKind.NO_ADVANTAGE,),
        True,
        says="not the reason",
    ),
    Situation(
        "no advantage although groups differ and the correction rejected a single response",
        lambda: merge(
            pair(FULL - 2.0, FULL - 2.0, np.zeros(N)),
            group_metrics(centred(), GROUPS),
            sampler(np.where(np.arange(N)[:, None] == 0, 0.01, 0.0) * FULL, MIS),
        ),
        (FindingKind.NO_ADVANTAGE, FindingKind.SAMPLER_NOISE),
        True,
        says="not the reason",
    ),
    Situation(
        "nothing was run, since nothing had an advantage",
        lambda: left_out_metrics(GSPO, np.zeros(N), Padded(FULL)),
        (FindingKind.NO_ADVANTAGE,),
        True,
    ),
    Situation("all masked", masked, (FindingKind.ALL_MASKED,), True, says="None of 64"),
    Situation("all masked, groups measured", lambda: masked(group_metrics(centred(), GROUPS)), (FindingKind.ALL_MASKED,), True),
    Situation("all masked, tokens with ratios", lambda: masked(objective=GRPO), (FindingKind.ALL_MASKED,), True, GRPO),
    Situation(
        "all masked after the sampler was measured",
        lambda: masked(sampler(ratios(1e-3) - 5e-7)),
        (FindingKind.ALL_MASKED,),
        True,
        says="compare the layout",
    ),
    Situation(
        "no batch at all", lambda: group_metrics(centred(), GROUPS), (FindingKind.NOTHING_MEASURED,), None, says="merge those"
    ),
    Situation(
        "everything clipped",
        lambda: batch(np.sign(centred())[:, None] * np.full(FULL.shape, 0.01), centred()),
        (FindingKind.ALL_CLIPPED,),
        True,
        says="100% of 64",
    ),
    Situation(
        "everything clipped that has an advantage",
        lambda: batch(np.full(FULL.shape, 0.01), np.where(GROUPS == 0, 1.0, 0.0)),
        (FindingKind.ALL_CLIPPED,),
        True,
        says="12% of 64",
    ),
    Situation(
        "everything clipped, by ratios that no update makes",
        lambda: batch(np.sign(centred())[:, None] * FULL * 0.9, centred()),
        (FindingKind.ALL_CLIPPED,),
        True,
        says="Do not widen",
        never_says=" Widen",
    ),
    *(
        Situation(
            f"the correction rejected everything, drop={drop}, groups measured: {groups}",
            lambda drop=drop, groups=groups: corrected(
                Correction(ProductWeight(), Mask(0.0, 3.0, drop=drop)), FULL * 0.005, centred(), groups
            ),
            (FindingKind.ALL_REJECTED, FindingKind.SAMPLER_BIAS),
            True,
            says="rejected 100%",
            never_says="prompts",
        )
        for drop in (False, True)
        for groups in (True, False)
    ),
    Situation(
        "the correction rejected everything, and groups are of the weighted advantages",
        lambda: merge(corrected(BOUNDED, FULL * 0.005, centred(), False), group_metrics(np.zeros(N), GROUPS)),
        (FindingKind.ALL_REJECTED, FindingKind.SAMPLER_BIAS),
        True,
        says="unless group_metrics was given",
        never_says="Rewards are not the reason",
    ),
    Situation(
        "the correction rejected all that had an advantage",
        lambda: corrected(MIS, HALF, np.where(GROUPS < 4, centred(), 0.0)),
        (FindingKind.ALL_REJECTED, FindingKind.SAMPLER_BIAS, FindingKind.SAMPLER_NOISE),
        True,
        says="rejected 50%",
    ),
    Situation(
        "constant groups under a correction that rejects some",
        lambda: corrected(MIS, HALF, np.zeros(N)),
        (FindingKind.CONSTANT_GROUPS, FindingKind.SAMPLER_BIAS, FindingKind.SAMPLER_NOISE),
        True,
    ),
]

ONE_FOR_ALL = [
    Situation(
        "one response takes over by its ratio",
        lambda: pair(spread() + one_row(10.0), spread(), against(0)),
        (FindingKind.POSITIVE_LOG_PROBS, FindingKind.DOMINANT_RESPONSE),
        says="above 0",
        never_says="clip range",
    ),
    Situation(
        "one response takes over by its ratio, with log-probs that can be",
        lambda: pair(spread() - 7.0 + one_row(6.5), spread() - 7.0, against(0)),
        (FindingKind.DOMINANT_RESPONSE,),
        False,
        says="DualClip",
        never_says="see clip_range_for",
    ),
    Situation(
        "one of twenty takes over",
        lambda: pair(spread()[:20] - 7.0 + one_row(6.0, 20, 3), spread()[:20] - 7.0, against(3, 20)),
        (FindingKind.DOMINANT_RESPONSE,),
        False,
    ),
    Situation(
        "one response takes over by its advantage",
        lambda: pair(spread() + ratios(FITTING), spread(), np.where(np.arange(N) == 9, 1e4, centred())),
        (FindingKind.DOMINANT_RESPONSE,),
        False,
        says="its advantage",
        never_says="DualClip",
    ),
    Situation(
        "one response takes over by its length, in a mean over tokens",
        lambda: on_layout(
            DAPO, FULL - 2.0, FULL - 2.0 + ratios(FITTING), np.sign(centred()), Padded(np.arange(1000) < LENGTHS[:, None])
        ),
        (FindingKind.DOMINANT_RESPONSE,),
        False,
        DAPO,
        says="its length",
    ),
    Situation(
        "one of four takes over",
        lambda: pair(spread()[:4] - 7.0 + one_row(6.0, 4, 3), spread()[:4] - 7.0, against(3, 4)),
        (FindingKind.DOMINANT_RESPONSE,),
        False,
    ),
    *(
        Situation(
            f"one response of a group of {size} is solved, no other group has an advantage, and half of the others are clipped",
            lambda size=size: pair(spread() + one_solved(size)[1], spread(), one_solved(size)[0]),
            (),
        )
        for size in (8, 16, 32)
    ),
    Situation(
        "only two responses have an advantage",
        lambda: pair(
            spread() + ratios(FITTING), spread(), np.where(np.arange(N) == 9, 3.0, np.where(np.arange(N) == 1, -1.0, 0.0))
        ),
        (),
    ),
    Situation(
        "advantages of ordinary sizes and lengths from 50 to 1000",
        lambda: on_layout(GSPO_TOKEN, spread() + ratios(1e-3), spread(), centred(), Padded(ragged())),
        (),
        objective=GSPO_TOKEN,
    ),
]
