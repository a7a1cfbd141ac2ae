"""A wrong clip fraction is explained by the units that it counts, or by what it divides by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gspo_core import GSPO, laws
from gspo_core.laws.mutants.mutant import HIGH, LIKE, LIKE_DUAL, LIKE_GRPO, LOW, is_clipped, log_s, ratios


def rows(logp: Any, old: Any, a: Any, mask: Any, sign: float = 1.0) -> Any:
    """Which responses are clipped."""
    return is_clipped(log_s(logp, old, mask), sign * a) & mask.any(axis=1)


def tokens(logp: Any, old: Any, a: Any, mask: Any) -> Any:
    """Which tokens are clipped."""
    return is_clipped(ratios(logp, old, mask), a[:, None]) & mask


def either(logp: Any, old: Any, a: Any, mask: Any) -> Any:
    """Which responses with an advantage are outside the clip range."""
    x = log_s(logp, old, mask)
    return ((x > np.log1p(HIGH)) | (x < np.log1p(-LOW))) & mask.any(axis=1) & (a != 0)


def said(fn: Any, like: Any = LIKE, per_token: bool = False) -> list[str]:
    """The causes of what is broken."""
    return [cause.sentence for cause in laws.check_clip_fraction(fn, like, per_token=per_token, examples=10).causes]


@pytest.mark.parametrize(
    ("words", "fn", "like", "per_token"),
    [
        ("mirrored", lambda *x: rows(*x, sign=-1.0).sum() / x[3].any(axis=1).sum(), LIKE, False),
        ("for either sign of A", lambda *x: either(*x).sum() / x[3].any(axis=1).sum(), LIKE, False),
        ("tokens are counted, not responses", lambda *x: (rows(*x)[:, None] & x[3]).sum() / x[3].sum(), LIKE, False),
        ("all slots, padding included", lambda *x: tokens(*x).mean(), LIKE_GRPO, True),
        ("the ratios of tokens are compared", lambda *x: tokens(*x).sum() / x[3].sum(), LIKE, True),
    ],
)
def test_each_difference_has_its_words(words: str, fn: Any, like: Any, per_token: bool) -> None:
    found = said(fn, like, per_token)
    assert words in found[0]


def test_what_no_formula_explains_has_the_name_of_its_law() -> None:
    def odd(*x: Any) -> Any:
        return (rows(*x).sum() / x[3].any(axis=1).sum()) ** 2

    assert "not so: the clip fraction counts the units that have an advantage and no gradient" in said(odd)
    assert all(sentence.startswith("not so: ") for sentence in said(odd, LIKE_DUAL))


@pytest.mark.parametrize("per_token", [False, True], ids=["responses", "tokens"])
def test_a_right_fraction_has_no_cause(per_token: bool) -> None:
    def right(*x: Any) -> Any:
        return (rows(*x)[:, None] & x[3]).sum() / x[3].sum() if per_token else rows(*x).sum() / x[3].any(axis=1).sum()

    assert said(right, LIKE, per_token) == []
    assert said(right, GSPO, per_token) != []
