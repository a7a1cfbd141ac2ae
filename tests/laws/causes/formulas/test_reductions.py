"""Weights of responses in the loss are told from each other, also where they agree on small batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.explained import explained

from gspo_core.laws.mutants.mutant import LIKE, gain, log_s


class Counts(NamedTuple):
    """Lengths, non-empty responses, rows and slots of a batch."""

    y: Any
    filled: int
    rows: int
    slots: int


WEIGHTS: dict[str, Callable[[Counts], Any]] = {
    "a response's sum over tokens is divided by the square root of its length": lambda c: np.sqrt(c.y) / c.filled,
    "each response is divided by its length once more": lambda c: 1 / np.maximum(c.y, 1) / c.filled,
    "the loss is a mean over all slots": lambda c: c.y / (c.rows * c.slots),
    "the sum over responses is divided by the number of tokens": lambda c: np.ones(c.rows) / c.y.sum(),
    "all tokens are summed": lambda c: c.y,
    "is not divided by its length, and rows without a token are counted": lambda c: c.y / c.rows,
    "the sum over responses is divided by N − 1": lambda c: np.ones(c.rows) / max(c.filled - 1, 1),
}


@pytest.mark.parametrize("words", WEIGHTS)
def test_each_weighting_has_its_own_words(words: str) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        y = mask.sum(axis=1).astype(np.float64)
        if not y.any():
            return 0.0
        weight = WEIGHTS[words](Counts(y, int((y > 0).sum()), *mask.shape))
        return -np.where(y > 0, weight * gain(log_s(logp, old, mask), a), 0.0).sum()

    assert words in explained(loss, LIKE)
