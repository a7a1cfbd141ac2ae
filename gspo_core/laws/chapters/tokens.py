"""The token form of a response's ratio: what GSPO-token shares with GSPO, and what not (theory B1, B5)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import same_value, same_weight, scale_of
from gspo_core.laws.kit.law import Law, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import batches
from gspo_core.laws.kit.subject import Subject
from gspo_core.objectives.ratios import Sequence

NEEDS = {Claim.MEAN_RATIO, Claim.TOKEN_ADVANTAGES, Claim.SEQUENCE_MEAN, Claim.CLIP, Claim.OWN_GRADIENT}


@law(
    "with one advantage per response GSPO-token is GSPO",
    source="theory B1; GSPO section 4.3: same objective, same clipping, same gradient",
    otherwise="the token form has a gate, a weight or a value of its own",
    needs={*NEEDS, Claim.JUDGED},
    cases=lambda setting: batches(setting, kinds=["level", "spread", "beyond", "equal"]),
    anchors=lambda setting: [Batch.of([[0.0, 0.0]], [1.0])],
)
def is_gspo(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Value and gradient, as [N] and as [N, T] of equal rows, are those of the same objective with a sequence ratio."""
    batch = batch.poisoned(0.0)
    if batch.largest > 49.0 or not setting.is_clear(batch, subject.kink):
        return False
    verdict = replace(setting, like=replace(setting.like, ratio=Sequence())).verdict(batch)
    wide = replace(batch, advantage=np.repeat(batch.advantage[:, None], batch.mask.shape[1], axis=1))
    for form in (batch, wide):
        found = subject(form)
        same_value(found, verdict.value, setting, form, "the loss", "with a sequence ratio:")
        same_weight(found, verdict.weight, setting, form, "the gradient", "with a sequence ratio:")
    return bool(batch.token_advantage.any())


@law(
    "inside the band a value knows only the mean of a response's token advantages",
    source="theory B5: s_i mean_t A_it, while each token's gradient knows its own",
    otherwise="tokens of a response weigh differently in the value",
    needs=NEEDS,
    cases=lambda setting: batches(setting, per_token=True, kinds=["on policy", "equal"], holes=False),
    anchors=lambda setting: [Batch.of([[0.0, 0.0]], [[1.0, -1.0]])],
)
def mean_advantage(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Token advantages and their mean at every token have one value, as long as nothing is clipped."""
    edge = 0.9 * min(abs(x) for x in setting.log_bounds)
    batch = batch.with_d(np.clip(batch.d, -edge, edge)).poisoned(0.0)
    level = batch.token_advantage.sum(axis=1) / np.maximum(1, batch.lengths)
    expected = subject(replace(batch, advantage=np.where(batch.mask, level[:, None], 0.0)))
    found = subject(batch)
    room = found._replace(
        eps=found.eps * (1.0 + float(np.abs(batch.token_advantage).sum()) / (scale_of(setting, batch) + 1e-9))
    )
    same_value(room, expected.value, setting, batch, "the loss", "with each response's mean advantage at all its tokens:")
    return bool(np.ptp(batch.token_advantage, axis=1).any())


TOKENS: list[Law] = [is_gspo, mean_advantage]
