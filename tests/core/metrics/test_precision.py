"""Quantiles keep their resolution, small spreads survive float32, and what a number promises it keeps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.budgets import assert_within
from support.cases import Batch, batches
from support.inputs.metric_cases import measured, on_layout, vectors
from support.libraries import NUMPY, Library
from support.oracles import metrics as oracle_metrics

from gspo_core import GSPO, Padded, summary
from gspo_core.metrics import clip_share
from gspo_core.metrics.sketch import RESOLUTION


@given(batch=batches(max_tokens=3), q=st.sampled_from(["q01", "q05", "q25", "q50", "q75", "q95", "q99"]))
def test_a_quantile_is_within_the_resolution_of_the_order_statistic(batch: Batch, q: str) -> None:
    numbers = summary(measured(NUMPY, GSPO, batch, batch.advantage))
    assume("log_s_mean" in numbers)
    d = np.where(batch.mask, batch.clean().logp - batch.clean().old_logp, 0.0)
    log_s = [float(x.sum() / n) for x, n in zip(d, batch.mask.sum(axis=1), strict=True) if n]
    level = int(q[1:]) / 100
    exact = oracle_metrics.order_statistic(log_s, level)
    assert_within(numbers[f"log_s_{q}"], exact, (RESOLUTION + 1e-9) * abs(exact) + 2.0**-30)
    if q in ("q50", "q95"):
        exact = oracle_metrics.order_statistic([abs(x) for x in log_s], level)
        assert_within(numbers[f"abs_log_s_{q}"], exact, (RESOLUTION + 1e-9) * exact + 2.0**-30)


def test_the_resolution_is_less_than_five_percent() -> None:
    assert 0.04 < RESOLUTION < 0.045


@pytest.mark.parametrize("mean", [1e-3, -1e-3, 0.0, 3.0])
def test_float32_does_not_lose_a_small_spread_around_a_large_mean(library: Library, mean: float) -> None:
    """log s of 1e-3 ± 1e-6: Σ x² in float32 would be off by more than the whole variance."""
    rng = np.random.default_rng(0)
    spread = 1e-3 * abs(mean) if mean else 1e-6
    log_s = (mean + spread * rng.normal(size=(400, 1))).astype(np.float32)
    zero, layout = np.zeros_like(log_s), Padded(library.array(np.ones(log_s.shape, dtype=bool)))
    arrays = [library.array(x) for x in (log_s, zero, np.ones(400, dtype=np.float32))]
    numbers = summary(on_layout(GSPO, *arrays, layout))
    exact = log_s.astype(np.float64)
    # Inside a bin of 9 % the squares are at most (0.045 / 1e-3)² = 2000 times the variance: 2000 float32 roundings.
    assert_within(numbers["log_s_std"], exact.std(), 2e-4 * exact.std())
    assert_within(numbers["log_s_mean"], exact.mean(), 2e-6 * abs(mean) + 1e-9)
    if mean == 1e-3:
        x = log_s[:, 0]
        naive = (
            np.cumsum(x * x, dtype=np.float32)[-1] / np.float32(400)
            - (np.cumsum(x, dtype=np.float32)[-1] / np.float32(400)) ** 2
        )
        assert abs(naive - exact.var()) > 0.05 * exact.var()


def test_design_effect_is_one_for_independent_tokens_and_the_length_for_equal_ones() -> None:
    rng, n, width = np.random.default_rng(1), 4000, 16
    zero, layout, one = np.zeros((n, width)), Padded(np.ones((n, width), dtype=bool)), np.ones(n)
    noise = -1e-3 + 0.02 * rng.normal(size=(n, width))
    drift = np.repeat(0.02 * rng.normal(size=(n, 1)), width, axis=1)
    independent, together = (summary(on_layout(GSPO, x, zero, one, layout))["design_effect"] for x in (noise, drift))
    assert_within(independent, 1.0, 4 * math.sqrt(2 / n))  # four standard errors of a variance of n numbers
    assert_within(together, float(width), 0.01 * width)
    by_hand = width * noise.mean(axis=1).var(ddof=1) / noise.var(ddof=1)
    assert_within(independent, by_hand, 1e-9)


def test_the_clip_share_of_the_range_in_use_is_the_clip_fraction() -> None:
    """Within what one bin holds: the histogram of log s by sign predicts the clip fraction of any range."""
    rng, n = np.random.default_rng(2), 20_000
    log_s, advantage = rng.normal(-1e-4, 3e-4, size=(n, 1)), rng.normal(size=n)
    layout, zero = Padded(np.ones((n, 1), dtype=bool)), np.zeros((n, 1))
    pilot = on_layout(GSPO.with_clip(0.5, 0.5), log_s, zero, advantage, layout)
    assert summary(pilot)["clip_active"] == 0.0
    for low, high in ((3e-4, 4e-4), (1e-4, 2e-3), (0.0, 0.0)):
        actual = summary(on_layout(GSPO.with_clip(low, high), log_s, zero, advantage, layout))["clip_active"]
        assert_within(clip_share(pilot, low, high), actual, 0.005)
    assert 0.1 < clip_share(pilot, 3e-4, 4e-4) < 0.3


@pytest.mark.parametrize("x", [1e6, -1e6, 44.0])
def test_any_finite_log_ratio_has_finite_metrics(library: Library, x: float) -> None:
    arrays = [library.array(np.array(y, dtype=np.float32)) for y in ([[x]], [[0.0]], [-1.0])]
    metrics = on_layout(GSPO, *arrays, Padded(library.array(np.array([[True]]))))
    assert np.isfinite(vectors(metrics, library)[1]).all()
    assert all(math.isfinite(value) for value in summary(metrics).values())
    assert_within(summary(metrics)["log_s_mean"], x, 1e-6 * abs(x))  # float32


def test_the_effective_sample_size_counts_log_s_beyond_20_as_20() -> None:
    zero, layout, one = np.zeros((2, 1)), Padded(np.ones((2, 1), dtype=bool)), np.ones(2)
    ess = [summary(on_layout(GSPO, np.array([[0.0], [x]]), zero, one, layout))["ess"] for x in (19.0, 20.0, 21.0, 40.0)]
    assert ess[0] != ess[1] == ess[2] == ess[3]
    assert "beyond 20" in (summary.__doc__ or "")
