"""A sampler weight refuses what is wrong with a sentence that names it and says what to do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gspo_core import TIS, Padded, sampler_weight
from gspo_core.mismatch import GEO_RS, ICEPOP, MIS, Correction, Mask, Reject, TokenWeight, Truncate

GOOD = (np.zeros((2, 3)), np.zeros((2, 3)), Padded(np.ones((2, 3), dtype=bool)))
WRONG: list[tuple[type[Exception], str, tuple[Any, ...]]] = [
    (TypeError, r"^correction: expected a Correction such as TIS, got str", ("tis", *GOOD)),
    (TypeError, r"^layout: expected a layout such as Padded\(mask\), got ndarray", (TIS, GOOD[0], GOOD[1], GOOD[0] > 1)),
    (TypeError, r"^sampler_logp: expected an array, got list", (TIS, GOOD[0], [[0.0]], GOOD[2])),
    (ValueError, r"^old_logp: expected the layout's shape \[2, 3\], got \[2\]", (TIS, np.zeros(2), GOOD[1], GOOD[2])),
    (TypeError, r"^old_logp: expected real floating-point log-probs, got dtype int", (TIS, np.zeros((2, 3), int), *GOOD[1:])),
    (
        TypeError,
        r"^sampler_logp: expected float32 or float64, got float16",
        (TIS, GOOD[0], GOOD[1].astype(np.float16), GOOD[2]),
    ),
]


@pytest.mark.parametrize(("kind", "sentence", "arguments"), WRONG, ids=[w[1][1:45] for w in WRONG])
def test_wrong_arguments_are_named(kind: type[Exception], sentence: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(kind, match=sentence):
        sampler_weight(*arguments)


def test_low_precision_can_be_accepted() -> None:
    out = sampler_weight(TIS, GOOD[0].astype(np.float16), GOOD[1].astype(np.float32), GOOD[2], allow_low_precision=True)
    assert out.weight.dtype == np.float32


@pytest.mark.parametrize("make", [Mask, Reject, Truncate])
def test_bounds_hold_one_and_do_something(make: Any) -> None:
    """Beyond that, a weight would not be 1 for equal policies, or the option would have no effect."""
    drop = {} if make is Truncate else {"drop": False}
    with pytest.raises(ValueError, match=r"^low: expected a weight between 0 and 1, got 1.5"):
        make(low=1.5, high=2.0, **drop)
    with pytest.raises(ValueError, match=r"^low: expected a weight between 0 and 1, got nan"):
        make(low=math.nan, high=2.0, **drop)
    with pytest.raises(ValueError, match=r"^high: expected a weight of at least 1, got 0.5"):
        make(low=0.0, high=0.5, **drop)
    with pytest.raises(ValueError, match=r"^low, high: expected a bound on at least one side, got 0 and inf, which do nothing"):
        make(low=0.0, high=math.inf, **drop)


def test_a_correction_is_made_of_values() -> None:
    with pytest.raises(TypeError, match=r"^level: expected a value, got the class TokenWeight; write TokenWeight\(...\)"):
        Correction(TokenWeight, Truncate(2.0))
    with pytest.raises(TypeError, match=r"^action: expected a value, got the class Mask; write Mask\(...\)"):
        Correction(TokenWeight(), Mask)
    assert len({TIS, MIS, ICEPOP, GEO_RS, Correction(TokenWeight(), Truncate(2.0))}) == 4
