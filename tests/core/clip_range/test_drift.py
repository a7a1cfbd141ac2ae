"""How far a policy has moved: the estimate is unbiased on ragged lengths, and log s has its normal law (docs/theory.md, D7)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from support.budgets import REL64, assert_within
from support.cases import Batch, batches
from support.libraries import Library
from support.oracles import advice as oracle_advice

from gspo_core import Clip, Packed, Padded
from gspo_core.clip_range import BySign, Drift, clip_fraction_for, estimate_drift


def rows_of(batch: Batch) -> oracle_advice.Rows:
    """Token log ratios, row by row."""
    d = batch.clean().logp - batch.clean().old_logp
    return [d[i, batch.mask[i]].tolist() for i in range(len(d))]


@given(batch=batches(edges=False))
def test_the_estimate_is_that_of_scalar_loops(library: Library, batch: Batch) -> None:
    arrays = (library.array(x) for x in (batch.logp, batch.old_logp))
    found = [float(x) for x in estimate_drift(*arrays, Padded(library.array(batch.mask)))]
    expected = oracle_advice.drift(rows_of(batch))
    tokens = oracle_advice.flat(rows_of(batch))
    largest = max((abs(x) for x in tokens), default=0.0)
    budget = REL64 * np.array([math.exp(largest), largest, largest**2])
    assert_within(found[:3], expected[:3], budget)
    # The variance's own rounding comes back in D, relative to it; it can be all rounding if the tokens are all alike.
    if expected.variance > 1e-6 * largest**2:
        assert_within(found[3], expected.design_effect, 1e-5 * (1.0 + expected.design_effect))


@given(batch=batches(edges=False))
def test_packed_and_padded_agree(batch: Batch) -> None:
    rows = rows_of(batch)
    d = np.array(oracle_advice.flat(rows))
    ids = np.array([i for i, row in enumerate(rows) for _ in row], dtype=np.int64)
    packed = estimate_drift(d, np.zeros(len(d)), Packed(ids, len(rows)))
    padded = estimate_drift(batch.clean().logp - batch.clean().old_logp, np.zeros(batch.mask.shape), Padded(batch.mask))
    assert_within(packed[:3], padded[:3], REL64 * np.exp(np.abs(d).max(initial=0.0)))


def test_a_batch_by_hand() -> None:
    """d = (1, 1 | −2): mean 0, variance 6/2, Σ(S − L·0)² = 8 over 3 − 5/3 = 4/3, so D = 6/3 = 2."""
    d = np.array([[1.0, 1.0], [-2.0, math.nan]])
    found = estimate_drift(d, np.zeros((2, 2)), Padded(np.array([[True, True], [True, False]])))
    assert_within(found, [(2 * (math.e - 2) + math.exp(-2) + 1) / 3, 0.0, 3.0, 2.0], 1e-15 * 10)


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (3, 0)])
def test_where_nothing_can_be_known_the_design_effect_is_one(shape: tuple[int, int]) -> None:
    found = estimate_drift(np.ones(shape), np.zeros(shape), Padded(np.full(shape, True)))
    assert float(found.design_effect) == 1.0
    assert all(math.isfinite(float(x)) for x in found)


@pytest.mark.slow
def test_independent_tokens_have_a_design_effect_of_one_on_average_however_ragged() -> None:
    """Both variances are unbiased for 6 responses of 1 to 40 tokens; that of the plain log s is not."""
    rng, lengths, draws = np.random.default_rng(0), np.array([1, 2, 3, 5, 12, 40]), 4000
    mask = np.arange(40)[None, :] < lengths[:, None]
    d = rng.normal(0.3, 1.0, size=(draws, 6, 40))
    found = [estimate_drift(x, np.zeros(mask.shape), Padded(mask)) for x in d]
    variance = np.array([float(x.variance) for x in found])
    together = variance * np.array([float(x.design_effect) for x in found])
    for estimate in (variance, together):
        assert abs(estimate.mean() - 1.0) < 4 * estimate.std() / math.sqrt(draws)
    assert together.std() / math.sqrt(draws) < 0.02  # so a bias of 8 % would show
    # The guard: centred by the plain mean of log s, and divided by the number of responses, it is off by far more.
    log_s = np.where(mask, d, 0.0).sum(-1) / lengths
    naive = (lengths * (log_s - log_s.mean(1, keepdims=True)) ** 2).mean(1)
    assert naive.mean() - 1.0 > 0.2


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_a_shared_part_makes_the_design_effect_that_of_cluster_samples(shared: float) -> None:
    """D = 1 + (L − 1) × the shared part of the variance."""
    rng, n, width = np.random.default_rng(1), 20_000, 8
    d = math.sqrt(shared) * rng.normal(size=(n, 1)) + math.sqrt(1 - shared) * rng.normal(size=(n, width))
    found = float(estimate_drift(d, np.zeros((n, width)), Padded(np.full((n, width), True))).design_effect)
    assert found == pytest.approx(1 + (width - 1) * shared, rel=4 * math.sqrt(2 / n) + 4 / math.sqrt(n * width))


# ---- D7: the law of log s


def policies(step: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(π_old [V], log π/π_old [V]) of a softmax whose logits moved by `step` times noise."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=6)
    moved = logits + step * rng.normal(size=6)
    old, new = (np.exp(x) / np.exp(x).sum() for x in (logits, moved))
    return old, np.log(new / old)


@pytest.mark.parametrize("seed", range(5))
def test_the_variance_is_twice_the_divergence_for_small_steps(seed: int) -> None:
    """D7: E_old[d] = −κ exactly, Var(d) = 2κ (1 + O(step)), by enumeration."""
    errors = []
    for step in (1e-2, 1e-3):
        old, d = policies(step, seed)
        kappa, mean = float(old @ (np.expm1(d) - d)), float(old @ d)
        assert mean == pytest.approx(-kappa, rel=1e-9)
        errors.append(abs(float(old @ (d - mean) ** 2) / (2 * kappa) - 1))
    assert errors[0] < 0.02
    assert errors[1] < 0.2 * errors[0] + 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("length", [32, 512, 8192])
@pytest.mark.parametrize("kappa", [2e-4, 2e-3])
def test_predicted_tails_are_those_of_sampled_responses(length: int, kappa: float) -> None:
    """D7: half of either sign, within 0.004 at 32 tokens and 0.001 beyond; drawn from π_old, not from a normal law."""
    old, d = policies(1.0)
    old, d = policies(math.sqrt(kappa / float(old @ (np.expm1(d) - d))))
    n = 400_000
    log_s = np.random.default_rng(2).multinomial(length, old, size=n) @ d / length
    law = Drift.of(float(old @ (np.expm1(d) - d)))
    spread = math.sqrt(2 * law.kappa / length)
    allowed = (0.004 if length == 32 else 0.001) + 4 * 0.25 / math.sqrt(n)  # the law's, and four standard errors of counting
    for width in (0.5 * law.kappa, law.kappa, spread, 2 * spread):
        clip = Clip(-math.expm1(-width), math.expm1(width))
        predicted = clip_fraction_for(clip, law, [length])
        assert predicted.high == pytest.approx(0.5 * (log_s > width).mean(), abs=allowed)
        assert predicted.low == pytest.approx(0.5 * (log_s < -width).mean(), abs=allowed)


def test_the_spread_falls_with_the_length_and_the_drift_does_not() -> None:
    """D7: for |y| far above 2D/κ the gate asks whether κ > ε, and cuts bad responses only."""
    law = Drift.of(5e-4)
    fractions = [clip_fraction_for(Clip(3e-4, 4e-4), law, [length]) for length in (10, 1000, 100_000, 10_000_000)]
    assert [round(f.low, 3) for f in fractions] == [0.254, 0.29, 0.489, 0.5]  # Φ(0.02), Φ(0.2), Φ(2), Φ(20), halved
    assert [round(f.high, 3) for f in fractions] == [0.232, 0.092, 0.0, 0.0]


def test_a_law_for_each_sign_is_asked_on_its_own_side() -> None:
    law = BySign(Drift.of(1e-3), Drift(1e-3, -1.0, 0.0, 1.0))
    found = clip_fraction_for(Clip(0.1, 0.1), law, [10, 10, 10], [1.0, -1.0, 0.0])
    assert found.low == pytest.approx(1 / 3)
    assert found.high < 1e-9


def test_a_law_without_spread_is_a_step_and_its_bound_is_live() -> None:
    at = Drift(0.0, math.log1p(0.5), 0.0, 1.0)
    assert clip_fraction_for(Clip(0.5, 0.5), at, [4], [1.0]).high == 0.0
    assert clip_fraction_for(Clip(0.5, 0.4999), at, [4], [1.0]).high == 1.0


@pytest.mark.parametrize(("kappa", "effect"), [(-1e-9, 1.0), (math.nan, 1.0), (1.0, math.inf)])
def test_a_drift_out_of_range_is_refused(kappa: float, effect: float) -> None:
    with pytest.raises(ValueError, match="expected a finite number of at least 0"):
        Drift.of(kappa, effect)


def test_what_is_no_log_prob_is_refused() -> None:
    layout = Padded(np.full((2, 3), True))
    with pytest.raises(ValueError, match=r"old_logp: expected the layout's shape \[2, 3\], got \[3, 2\]"):
        estimate_drift(np.zeros((2, 3)), np.zeros((3, 2)), layout)
    with pytest.raises(TypeError, match="logp: expected float32 or float64"):
        estimate_drift(np.zeros((2, 3), dtype=np.float16), np.zeros((2, 3)), layout)
    with pytest.raises(TypeError, match="layout"):
        estimate_drift(np.zeros((2, 3)), np.zeros((2, 3)), np.full((2, 3), True))


def test_rubbish_in_masked_slots_is_inert() -> None:
    mask = np.array([[True, True, False], [True, False, False], [False, False, False]])
    d = np.where(mask, np.arange(9.0).reshape(3, 3) / 7, 0.0)
    clean = estimate_drift(d, np.zeros((3, 3)), Padded(mask))
    for poison in (math.nan, math.inf, 1e300):
        dirty = estimate_drift(np.where(mask, d, poison), np.where(mask, 0.0, -poison), Padded(mask))
        assert [float(x) for x in dirty] == [float(x) for x in clean]
