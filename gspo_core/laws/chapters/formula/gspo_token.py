"""GSPO-token: equal to GSPO for one advantage per response, and the value for token advantages."""

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
    "with one advantage per response GSPO-token equals GSPO",
    source="docs/theory.md, B1; GSPO section 4.3: same objective, same clipping, same gradient",
    otherwise="clipping, gradient or value of the token form differ from GSPO",
    needs={*NEEDS, Claim.KNOWN_FORMULA},
    cases=lambda setting: batches(setting, kinds=["level", "spread", "beyond", "equal"]),
    anchors=lambda setting: [Batch.of([[0.0, 0.0]], [1.0])],
)
def is_gspo(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Value and gradient are those of the same objective with a sequence ratio, for advantages [N] and equal ones [N, T]."""
    batch = batch.with_padding(0.0)
    if batch.largest > 49.0 or not setting.is_clear(batch, subject.kink):
        return False
    expected = replace(setting, like=replace(setting.like, ratio=Sequence())).expected(batch)
    wide = replace(batch, advantage=np.repeat(batch.advantage[:, None], batch.mask.shape[1], axis=1))
    for form in (batch, wide):
        found = subject(form)
        same_value(found, expected.value, setting, form, "the loss", "required: the result with a sequence ratio")
        same_weight(found, expected.weight, setting, form, "the gradient", "required: the result with a sequence ratio")
    return bool(batch.token_advantage.any())


@law(
    "inside the clip range the value depends only on the mean of a response's token advantages",
    source="docs/theory.md, B5: the value is s_i mean_t A_it, while the gradient of each token has its own A_it",
    otherwise="tokens of a response have different weights in the value",
    needs=NEEDS,
    cases=lambda setting: batches(setting, per_token=True, kinds=["on policy", "equal"], holes=False),
    anchors=lambda setting: [Batch.of([[0.0, 0.0]], [[1.0, -1.0]])],
)
def mean_advantage(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Replacing token advantages by their mean over the response does not change the value, if nothing is clipped."""
    edge = 0.9 * min(abs(x) for x in setting.log_bounds)
    batch = batch.with_d(np.clip(batch.d, -edge, edge)).with_padding(0.0)
    level = batch.token_advantage.sum(axis=1) / np.maximum(1, batch.lengths)
    expected = subject(replace(batch, advantage=np.where(batch.mask, level[:, None], 0.0)))
    found = subject(batch)
    room = found._replace(
        eps=found.eps * (1.0 + float(np.abs(batch.token_advantage).sum()) / (scale_of(setting, batch) + 1e-9))
    )
    same_value(
        room,
        expected.value,
        setting,
        batch,
        "the loss",
        "required: the result with each response's mean advantage at all its tokens",
    )
    return bool(np.ptp(batch.token_advantage, axis=1).any())


GSPO_TOKEN_LAWS: list[Law] = [is_gspo, mean_advantage]
