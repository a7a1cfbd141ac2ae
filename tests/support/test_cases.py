"""The random batches contain what the properties are about; the comparisons can fail."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from support.budgets import assert_close64, assert_same_bits, assert_within
from support.cases import CASES, CLIPS, POISONS, Batch, batches, core_loss
from support.libraries import NUMPY

FEATURES = [
    "clipped A > 0",
    "clipped A < 0",
    "live above the band",
    "live below the band",
    "exactly on the upper bound",
    "exactly on the lower bound",
    "zero advantage",
    "empty row",
    "all masked",
    "no columns",
    "hole",
    "left padding",
    "tokens of one sequence disagree on clipping",
    "advantages of one sequence have both signs",
    "log ratio below 1e-5",
    "log ratio above 1",
    *(f"N = {n}" for n in range(1, 9)),
    *(f"clip range {clip}" for clip in CLIPS),
    *(f"poison {poison}" for poison in POISONS),
]


def features(batch: Batch) -> set[str]:
    """Which of FEATURES the batch has; read off the oracle and the raw arrays."""
    gspo, grpo = batch.judged(CASES[0]), batch.judged(CASES[2])
    lengths, a, log_s = batch.mask.sum(axis=1), batch.advantage, np.asarray(gspo.log_ratio)
    full, clipped = lengths > 0, np.asarray(gspo.clipped)
    size = np.abs(log_s[full & (log_s != 0)])
    gaps = np.diff(np.pad(batch.mask, ((0, 0), (1, 1))).astype(int), axis=1)
    padding = batch.logp[~batch.mask]
    tokens = [set(np.asarray(grpo.clipped[i])[batch.mask[i]]) for i in np.flatnonzero(full & (np.nan_to_num(a) != 0))]
    signs = [set(np.sign(batch.token_advantage[i][batch.mask[i]])) for i in np.flatnonzero(full)]
    has = {
        "clipped A > 0": (clipped & (a > 0) & full).any(),
        "clipped A < 0": (clipped & (a < 0) & full).any(),
        "live above the band": (full & ~clipped & (a < 0) & (log_s > np.log1p(batch.high))).any(),
        "live below the band": (full & ~clipped & (a > 0) & (log_s < np.log1p(-batch.low))).any(),
        "exactly on the upper bound": batch.high > 0 and (full & (log_s == np.log1p(batch.high)) & (a > 0)).any(),
        "exactly on the lower bound": batch.low > 0 and (full & (log_s == np.log1p(-batch.low)) & (a < 0)).any(),
        "zero advantage": (full & (a == 0)).any(),
        "empty row": (~full).any() and full.any(),
        "all masked": not full.any() and batch.mask.size > 0,
        "no columns": batch.mask.shape[1] == 0,
        "hole": (np.sum(gaps == 1, axis=1) > 1).any(),
        "left padding": batch.mask.size > 0 and (~batch.mask[:, 0] & batch.mask[:, -1]).any(),
        "tokens of one sequence disagree on clipping": any(len(kinds) == 2 for kinds in tokens),
        "advantages of one sequence have both signs": any({-1.0, 1.0} <= kinds for kinds in signs),
        "log ratio below 1e-5": (size < 1e-5).any(),
        "log ratio above 1": (size > 1).any(),
        f"N = {len(a)}": True,
        f"clip range {(batch.low, batch.high)}": True,
    }
    has |= {f"poison {p}": padding.size > 0 and np.array_equal(padding[:1], [p], equal_nan=True) for p in POISONS}
    return {name for name, present in has.items() if present}


@pytest.mark.slow
def test_the_strategy_draws_every_feature() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=400)
    @given(batch=batches())
    def look(batch: Batch) -> None:
        seen.update(features(batch))

    look()
    assert set(FEATURES) <= set(seen), sorted(set(FEATURES) - set(seen))
    assert seen["clipped A > 0"] > 20 < seen["clipped A < 0"], seen


def test_the_feature_check_can_fail() -> None:
    nothing = Batch(np.zeros((1, 1)), np.zeros((1, 1)), np.ones((1, 1), dtype=bool), np.ones(1), np.ones((1, 1)), 0.2, 0.2)
    assert "clipped A > 0" not in features(nothing)


def wrong_sign(batch: Batch) -> Batch:
    """A batch whose first sequence is pushed the other way."""
    flipped = batch.advantage.copy()
    flipped[0] = -flipped[0]
    return Batch(batch.logp, batch.old_logp, batch.mask, flipped, batch.token_advantage, batch.low, batch.high)


def test_the_comparison_with_the_oracle_sees_a_wrong_sign() -> None:
    batch = Batch(np.zeros((2, 2)), np.zeros((2, 2)), np.ones((2, 2), dtype=bool), np.ones(2), np.ones((2, 2)), 0.2, 0.2)
    loss = core_loss(NUMPY, batch.with_clip(CASES[0].preset), wrong_sign(batch))
    with pytest.raises(AssertionError):
        assert_close64(loss.logp_grad, batch.judged(CASES[0]).weight)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        ([1.0], [1.0 + 1e-11]),
        ([np.nan], [1.0]),
        ([np.nan], [np.nan]),
        ([[1.0]], [1.0]),
        ([np.inf], [np.inf]),
        ([1e-300], [0.0]),
    ],
    ids=["beyond 1e-12", "NaN", "NaN on both sides", "shape", "infinity", "not zero"],
)
def test_assert_close64_can_fail(actual: list, expected: list) -> None:
    with pytest.raises(AssertionError):
        assert_close64(actual, expected)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [(0.0, -0.0), (np.float32(1.0), np.float64(1.0)), ([1.0], [[1.0]]), (1.0, np.nextafter(1.0, 2.0))],
    ids=["sign of zero", "dtype", "shape", "last bit"],
)
def test_assert_same_bits_can_fail(actual: object, expected: object) -> None:
    with pytest.raises(AssertionError):
        assert_same_bits(actual, expected)


def test_a_budget_of_zero_still_accepts_equality() -> None:
    assert_within([0.0, 1.0], [0.0, 1.0], 0.0)
