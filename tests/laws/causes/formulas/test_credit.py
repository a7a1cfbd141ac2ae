"""What a loss does to the advantages inside is told from its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.explained import explained

from gspo_core.laws.mutants.mutant import LIKE, gspo

CHANGES: dict[str, Callable[[Any], Any]] = {
    "only the sign of the advantage is used": np.sign,
    "advantages are cut to [−1, 1]": lambda a: np.clip(a, -1.0, 1.0),
    "positive advantages are set to 0": lambda a: np.minimum(a, 0.0),
    "negative advantages are set to 0": lambda a: np.maximum(a, 0.0),
    "the mean of the advantages is subtracted inside the loss": lambda a: a - a.mean(),
    "the mean of the other responses' advantages is subtracted inside the loss": lambda a: (
        a - (a.sum() - a) / (len(a) - 1) if len(a) > 1 else a
    ),
    "normalised by mean and standard deviation of the batch inside": lambda a: (a - a.mean()) / (a.std() + 1e-8),
    "normalised by mean and standard deviation of the batch (ddof 1)": lambda a: (
        (a - a.mean()) / (a.std(ddof=1) + 1e-6) if len(a) > 1 else 0 * a
    ),
    "divided by the root mean square of the batch": lambda a: a / (np.sqrt((a**2).mean()) + 1e-5),
}


@pytest.mark.parametrize("words", CHANGES)
def test_each_change_of_the_advantages_has_its_own_words(words: str) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        own, changed = mask.any(axis=1), a.copy()
        changed[own] = CHANGES[words](a[own])
        return gspo(logp, old, changed, mask)

    assert words in explained(loss, LIKE)
