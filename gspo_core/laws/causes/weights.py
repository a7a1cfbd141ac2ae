"""The weights of responses in a loss, beside those of the formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gspo_core.laws.kit.batch import Floats
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import Subject

from .answers import Seen
from .suspect import Suspect


def row_weights(subject: Subject, setting: Setting, s: Seen) -> Floats | None:
    """The part of each response in the loss, divided by that of the formula; None unless the parts add up to the loss."""
    rows = np.arange(len(s.batch.mask))
    if s.batch.per_token or not s.batch.advantage.all():
        return None
    parts = [replace(s.batch, advantage=np.where(rows == i, s.batch.advantage, 0.0)) for i in rows]
    found = np.array([subject.value(part).value for part in parts])
    if abs(found.sum() - s.found.value) > 1e-6 * np.abs(found).sum():
        return None
    weights = np.asarray(found / np.array([Suspect("", "").evaluate(setting, part).value for part in parts]))
    # Rows that are weighted have the gradient of their weights; rows that take each other's advantages have not.
    gap = np.abs(s.found.weight - weights[:, None] * s.right.weight).max()
    return weights if gap <= 1e-4 * np.abs(s.right.weight).max() else None
