"""A difference with one advantage per response leaves token advantages alone, and an objective per row sees the row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gspo_core import Clip, Objective
from gspo_core.laws.causes.suspect import OfResponses, Suspect
from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.mutants.mutant import LIKE, LIKE_GRPO

TWO = Batch.of([[0.1, 0.0], [0.28, 0.28]], [1.0, 1.0], [[1, 0], [1, 1]])


def doubled(batch: Batch) -> np.ndarray:
    """Twice the loss of every response."""
    return np.full(len(batch.mask), 2.0)


def test_a_difference_of_responses_is_none_of_tokens() -> None:
    setting, right = Setting(LIKE_GRPO), Suspect("", "")
    tokens = replace(TWO, advantage=np.ones((2, 2)))
    wrong = OfResponses("", "", factor=doubled)
    assert wrong.evaluate(setting, TWO).value == 2 * right.evaluate(setting, TWO).value
    assert wrong.evaluate(setting, tokens).value == right.evaluate(setting, tokens).value


def test_an_objective_per_row_is_asked_for_each_row() -> None:
    """The longer response has a clip range that ends below its ratio, the shorter one has not."""

    def by_row(objective: Objective, batch: Batch, i: int) -> Objective:
        return replace(objective, surrogate=Clip(0.2, 0.3 / float(batch.lengths[i])))

    found = Suspect("", "", by_row=by_row).evaluate(Setting(LIKE), TWO)
    assert found.value == -(np.exp(0.1) + 1.15) / 2
    assert found.weight.tolist() == [[-np.exp(0.1) / 2, 0.0], [0.0, 0.0]]
