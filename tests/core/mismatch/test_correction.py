"""Sampler weights are π_old/π_sampler, truncated, masked or used as a filter; always finite, and 1 where engines agree."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.budgets import assert_close64, assert_same_bits, assert_within, float32_budget
from support.cases import POISONS, Batch, batches
from support.libraries import Library
from support.oracles import sampler as judge

from gspo_core import TIS, Padded, sampler_weight
from gspo_core.mismatch import (
    GEO_RS,
    ICEPOP,
    MIS,
    Correction,
    GeometricWeight,
    Mask,
    ProductWeight,
    Reject,
    SamplerWeight,
    TokenWeight,
    Truncate,
)

LEVELS = [TokenWeight(), ProductWeight(), GeometricWeight()]
ACTIONS: list[tuple[Any, Any, float, float]] = [
    (Truncate(2.0), judge.truncated, 0.0, 2.0),
    (Truncate(1.5, low=0.5), judge.truncated, 0.5, 1.5),
    (Truncate(math.inf, low=0.9), judge.truncated, 0.9, math.inf),
    (Mask(0.5, 2.0, drop=False), judge.masked, 0.5, 2.0),
    (Mask(0.0, 1.25, drop=True), judge.masked, 0.0, 1.25),
    (Reject(0.9, 1.1, drop=True), judge.filtered, 0.9, 1.1),
    (Reject(0.5, math.inf, drop=False), judge.filtered, 0.5, math.inf),
]
by_level = pytest.mark.parametrize("level", LEVELS, ids=repr)
by_action = pytest.mark.parametrize(("action", "act", "low", "high"), ACTIONS, ids=[repr(a[0]) for a in ACTIONS])
NAMED = pytest.mark.parametrize("correction", [TIS, MIS, ICEPOP, GEO_RS], ids=["TIS", "MIS", "ICEPOP", "GEO_RS"])


def weights(library: Library, correction: Correction, batch: Batch, dtype: type = np.float64) -> SamplerWeight:
    """The core's, on one library, as NumPy arrays; old_logp is the trainer's, logp plays the sampler's."""
    old, sampler = (library.array(x.astype(dtype)) for x in (batch.old_logp, batch.logp))
    out = sampler_weight(correction, old, sampler, Padded(library.array(batch.mask)))
    return SamplerWeight(*(library.numpy(x) for x in out[:-1]), out.layout)


def raw_weights(level: Any, batch: Batch) -> np.ndarray:
    """The oracle's."""
    rows = (batch.old_logp.tolist(), batch.logp.tolist(), batch.mask.tolist())
    if level.per_token:
        return np.reshape(np.array(judge.token_weights(*rows)), batch.mask.shape)
    return np.array(judge.sequence_weights(*rows, geometric=isinstance(level, GeometricWeight)))


def bounded(act: Any, raw: np.ndarray, low: float, high: float, units: np.ndarray) -> np.ndarray:
    """The oracle's action on every unit that is there."""
    out = np.array([act(w, low, high) for w in raw.ravel().tolist()]).reshape(raw.shape)
    return np.where(units, out, 0.0)


def clear_of_bounds(raw: np.ndarray, low: float, high: float, width: float) -> None:
    """No unit so near to a bound that rounding decides."""
    with np.errstate(divide="ignore"):
        assume(not (np.abs(np.log(raw[raw > 0, None]) - np.log([[low, high]])) < width).any())


@by_action
@by_level
@given(batch=batches(edges=False))
def test_weights_are_the_scalar_ones(
    library: Library, level: Any, action: Any, act: Any, low: float, high: float, batch: Batch
) -> None:
    raw, units = raw_weights(level, batch), batch.mask if level.per_token else batch.mask.any(axis=1)
    clear_of_bounds(raw, low, high, 1e-9)
    out = weights(library, Correction(level, action), batch)
    expected = bounded(act, raw, low, high, units)
    sure = expected < math.exp(50)  # beyond it the core continues exp along its tangent; a bound below is exact all the same
    assert_within(out.weight[sure], expected[sure], 1e-11 * expected[sure])
    assert_within(out.raw[raw < math.exp(50)], raw[raw < math.exp(50)], 1e-11 * raw[raw < math.exp(50)])
    rejecting = not isinstance(action, Truncate)
    assert out.kept.tolist() == (units & ((raw >= low) & (raw <= high) if rejecting else True)).tolist()
    assert not out.weight[~units].any()
    assert not out.raw[~units].any()
    assert not out.log_raw[~units].any()


@by_level
@given(batch=batches(edges=False))
def test_float32_weights_stay_in_their_budget(library: Library, level: Any, batch: Batch) -> None:
    """For a product the sum of the gaps is off by |y|² eps max|d|, not by its |y|-th part."""
    batch = batch.rounded(np.float32)
    raw = raw_weights(level, batch)
    largest = np.abs(np.where(batch.mask, batch.old_logp - batch.logp, 0.0)).max(initial=0.0)
    out = weights(library, Correction(level, Truncate(4.0)), batch, np.float32)
    expected = np.minimum(raw, 4.0)
    assert out.weight.dtype == np.float32
    assert_within(out.weight, expected, 9 * float32_budget(9, largest) * np.maximum(expected, 1e-30))


def test_both_sides_of_the_bounds_are_drawn() -> None:
    """The guard of the tests above."""
    seen: set[tuple[bool, bool]] = set()

    @given(batch=batches(edges=False))
    def look(batch: Batch) -> None:
        for level in LEVELS:
            raw = raw_weights(level, batch)
            seen.update((level.per_token, side) for side in (raw > 2.0)[raw > 0].ravel().tolist())

    look()
    assert len(seen) == 4


def test_hand_computed_numbers(library: Library) -> None:
    """Gaps log 4 and log ¼ in one response, log 3 twice in the other."""
    old = np.log([[0.8, 0.1], [0.75, 0.75]])
    sampler = np.log([[0.2, 0.4], [0.25, 0.25]])
    batch = Batch(sampler, old, np.ones((2, 2), dtype=bool), np.ones(2), np.ones((2, 2)), 0.2, 0.2)
    expected = {
        TIS: [[2, 0.25], [2, 2]],
        ICEPOP: [[4, 0], [3, 3]],
        MIS: [1, 0],
        GEO_RS: [1, 0],
        Correction(ProductWeight(), Truncate(5.0)): [1, 5],
        Correction(GeometricWeight(), Mask(0.5, 5.0, drop=False)): [1, 3],
    }
    for correction, numbers in expected.items():
        assert_close64(weights(library, correction, batch).weight, np.array(numbers, dtype=float))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_one_sided_gap_of_a_long_response(library: Library, dtype: type) -> None:
    """−2.8/9000 nats per token: the product is e^−2.8 = 0.06, the geometric mean 0.9997."""
    length = 9000
    old, mask = np.full((1, length), -1.0 - 2.8 / length), np.ones((1, length), dtype=bool)
    batch = Batch(np.full((1, length), -1.0), old, mask, np.ones(1), np.ones((1, length)), 0.2, 0.2)
    # Each float32 log-prob near 1 is off by 6e-8 at most, and so is the mean of the gaps: 5e-4 of the sum.
    for level, expected, error in [(ProductWeight(), math.exp(-2.8), 1e-3), (GeometricWeight(), math.exp(-2.8 / length), 1e-7)]:
        out = weights(library, Correction(level, Truncate(2.0)), batch, dtype)
        assert abs(out.weight[0] - expected) < error
        assert_same_bits(out.weight, out.raw)
    assert abs(math.exp(-2.8) - 0.06) < 1e-3 > abs(math.exp(-2.8 / length) - 0.9997)
    assert weights(library, MIS, batch, dtype).weight.tolist() == [0]
    assert weights(library, GEO_RS, batch, dtype).weight.tolist() == [1]


@NAMED
@given(batch=batches())
def test_equal_policies_have_weight_one_bit_by_bit(library: Library, correction: Correction, batch: Batch) -> None:
    same = Batch(batch.old_logp, batch.old_logp, batch.mask, batch.advantage, batch.token_advantage, 0.2, 0.2)
    for dtype in (np.float32, np.float64):
        out = weights(library, correction, same.poisoned(np.nan), dtype)
        units = batch.mask if correction.level.per_token else batch.mask.any(axis=1)
        assert_same_bits(out.weight, units.astype(dtype))
        assert_same_bits(out.raw, units.astype(dtype))
        assert_same_bits(out.kept, units)


@pytest.mark.parametrize("action", [a[0] for a in ACTIONS], ids=repr)
@by_level
@given(batch=batches(), poison=st.sampled_from(POISONS))
def test_masked_slots_are_inert(library: Library, level: Any, action: Any, batch: Batch, poison: float) -> None:
    correction = Correction(level, action)
    clean, dirty = (weights(library, correction, x) for x in (batch.clean(), batch.poisoned(poison)))
    for x, y in zip(clean[:-1], dirty[:-1], strict=True):
        assert_same_bits(x, y)
    valid = [library.numpy(x.layout.valid) for x in (clean, dirty)]
    assert_same_bits(*valid)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("action", [a[0] for a in ACTIONS], ids=repr)
@by_level
def test_gaps_of_a_million_are_finite(library: Library, level: Any, action: Any, dtype: type) -> None:
    gaps = np.array([1e6, 1e3, 89.0, 50.0, -50.0, -104.0, -1e3, -1e6])[:, None] * np.ones((1, 3))
    batch = Batch(
        np.minimum(-gaps, 0), np.minimum(gaps, 0), np.ones(gaps.shape, bool), np.ones(len(gaps)), np.ones(gaps.shape), 0.2, 0.2
    )
    out = weights(library, Correction(level, action), batch, dtype)
    for x in (out.weight, out.raw, out.log_raw):
        assert x.dtype == dtype
        assert np.isfinite(x).all()
    assert (out.weight >= 0).all()


def test_what_is_no_number_is_truncated_to_itself_and_never_kept_by_a_band(library: Library) -> None:
    old, sampler = np.zeros((1, 3)), np.array([[np.nan, 0.0, -np.inf]])
    batch = Batch(sampler, old, np.ones((1, 3), dtype=bool), np.ones(1), np.ones((1, 3)), 0.2, 0.2)
    assert np.isnan(weights(library, TIS, batch).weight).tolist() == [[True, False, False]]
    for action in (Mask(0.5, 2.0, drop=False), Reject(0.5, 2.0, drop=False)):
        assert weights(library, Correction(TokenWeight(), action), batch).weight.tolist() == [[0, 1, 0]]
