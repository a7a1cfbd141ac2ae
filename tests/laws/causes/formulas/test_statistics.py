"""A ratio that is another statistic of a response's tokens is told from all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.explained import explained

from gspo_core.laws.mutants.mutant import LIKE, gain, mean, ratios

STATISTICS: dict[str, Callable[[Any], float]] = {
    "the smallest of its token ratios": np.min,
    "the largest of its token ratios": np.max,
    "the median of its token ratios": np.median,
    "the ratio of its first token": lambda d: d[0],
    "the ratio of its last token": lambda d: d[-1],
    "the token ratio that is farthest from 1": lambda d: d[np.argmax(np.abs(d))],
    "the arithmetic mean of its token ratios, not the geometric one": lambda d: np.log(np.mean(np.exp(d))),
}


@pytest.mark.parametrize("words", STATISTICS)
def test_each_statistic_has_its_own_words(words: str) -> None:
    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        rows = [STATISTICS[words](d[m]) if m.any() else 0.0 for d, m in zip(ratios(logp, old, mask), mask, strict=True)]
        return mean(gain(np.array(rows), a), mask)

    assert explained(loss, LIKE) == f"a response's ratio is {words}"
