"""Bounds on each subset of the four sides are named, and a ceiling is measured."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.draws import at_most
from support.explained import explained

from gspo_core.laws.causes.formulas.clips import NAMED
from gspo_core.laws.kit.packing import OwnGradient
from gspo_core.laws.mutants.mutant import HIGH, LIKE, LOW, exp, gain, log_s, mean, size

SIDES = [sides for sides in itertools.product([False, True], repeat=4) if sides != (False, True, True, False)]
PLACES = ("below for A > 0", "above for A > 0", "below for A < 0", "above for A < 0")


@pytest.mark.parametrize("sides", SIDES, ids=lambda s: "".join("01"[x] for x in s))
def test_each_subset_of_the_sides_has_its_own_words(sides: tuple[bool, ...]) -> None:
    good_below, good_above, bad_below, bad_above = sides

    def loss(logp: Any, old: Any, a: Any, mask: Any) -> OwnGradient:
        s = exp(log_s(logp, old, mask))
        below = np.where(np.where(a > 0, good_below, bad_below), 1 - LOW, 0.0)
        above = np.where(np.where(a > 0, good_above, bad_above), 1 + HIGH, np.inf)
        shut = (s < below) | (s > above)
        weight = np.where(mask, np.where(shut, 0.0, -a * s / size(mask))[:, None], 0.0) / max(1, mask.any(axis=1).sum())
        return OwnGradient(mean(np.clip(s, below, above) * a, mask), weight)

    found = explained(loss, LIKE)
    assert found == NAMED.get(sides, "clipped " + ", ".join(p for p, there in zip(PLACES, sides, strict=True) if there))


@at_most(4)
@given(st.floats(1.6, 20.0), st.booleans())
def test_a_ceiling_for_bad_responses_is_measured_also_beside_another_range(cap: float, wider: bool) -> None:
    high = 0.5 if wider else HIGH

    def loss(logp: Any, old: Any, a: Any, mask: Any) -> Any:
        x = log_s(logp, old, mask)
        return mean(np.where(a < 0, np.maximum(gain(x, a, LOW, high), cap * a), gain(x, a, LOW, high)), mask)

    found = explained(loss, LIKE)
    assert f"the loss of bad responses is capped at the ratio {cap:.6g} (dual clip, or a guard)" in found
    assert found.endswith("and the range") == wider
