"""What metrics keep of merged parts is enough for the estimators of the whole batch: the design effect and the mass gap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.budgets import assert_within
from support.cases import Batch, batches
from support.inputs.metric_cases import measured, on_layout
from support.libraries import Library

from gspo_core import GSPO, TIS, Clip, Padded, diagnose, merge, summary
from gspo_core.clip_range import estimate_drift
from gspo_core.metrics import FindingKind, Thresholds, sampler_metrics
from gspo_core.mismatch import mismatch_report

belonging = st.lists(st.integers(0, 3), min_size=8, max_size=8)


@given(batch=batches(edges=False), parts=belonging)
def test_the_design_effect_of_merged_parts_is_that_of_the_whole_batch(library: Library, batch: Batch, parts: list[int]) -> None:
    """Any lengths, any partition of the responses."""
    drift = estimate_drift(batch.logp, batch.old_logp, Padded(batch.mask))
    largest = float(np.abs((batch.clean().logp - batch.clean().old_logp)[batch.mask]).max(initial=0.0))
    assume(float(drift.variance) > 1e-6 * largest**2)  # else it is rounding, which D divides by
    belongs = np.array(parts[: len(batch.mask)])
    pieces = [batch.rows(belongs == part) for part in range(4)]
    numbers = summary(merge(*(measured(library, GSPO, piece, piece.advantage) for piece in pieces)))
    assert_within(numbers.get("design_effect", 1.0), drift.design_effect, 1e-6 * (1.0 + float(drift.design_effect)))


def ragged(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(token log ratios around 1e-3, half of whose variance a response's tokens share; mask): 60 of 1 to 400 tokens."""
    rng = np.random.default_rng(seed)
    mask = np.arange(400)[None, :] < np.sort(rng.geometric(0.02, size=60))[:, None]
    return 1e-3 + 1e-6 * (rng.normal(size=(60, 1)) + rng.normal(size=(60, 400))), mask


def test_float32_keeps_the_design_effect_of_a_small_spread_around_a_large_mean(library: Library) -> None:
    """Σ S² − 2 m Σ S |y| + m² Σ |y|² in float32 would not."""
    d, mask = (x.astype(kind) for x, kind in zip(ragged(0), (np.float32, bool), strict=True))
    exact = float(estimate_drift(d.astype(np.float64), np.zeros(d.shape), Padded(mask)).design_effect)
    pieces = []
    for rows in (slice(0, 13), slice(13, 40), slice(40, 60)):
        arrays = [library.array(x[rows]) for x in (d, np.zeros_like(d), np.ones(60, dtype=np.float32))]
        pieces.append(on_layout(GSPO, *arrays, Padded(library.array(mask[rows]))))
    # Inside a bin of 9 % the squares are at most (0.045 · 1e-3 / 1e-6)² = 2000 times the variance: 2000 float32 roundings.
    assert_within(summary(merge(*pieces))["design_effect"], exact, 2e-4 * exact)
    assert exact > 10  # not the 1 of independent tokens
    sums, lengths = (d * mask).sum(axis=1, dtype=np.float32), mask.sum(axis=1).astype(np.float32)
    mean = sums.sum(dtype=np.float32) / lengths.sum()
    naive = (sums * sums).sum() - 2 * mean * (sums * lengths).sum() + mean * mean * (lengths * lengths).sum()
    together = (((d.astype(np.float64) - float(mean)) * mask).sum(axis=1) ** 2).sum()
    assert abs(float(naive) - together) > 0.01 * together


@given(batch=batches(edges=False), parts=belonging)
def test_the_mass_gap_of_merged_parts_is_that_of_the_report(library: Library, batch: Batch, parts: list[int]) -> None:
    report = mismatch_report(
        batch.logp, batch.logp, batch.old_logp, batch.clean().advantage, Padded(batch.mask), Clip(0.2, 0.2)
    )
    belongs = np.array(parts[: len(batch.mask)])
    pieces = [batch.rows(belongs == part) for part in range(4)]
    metrics = [
        sampler_metrics(TIS, library.array(x.logp), library.array(x.old_logp), Padded(library.array(x.mask))) for x in pieces
    ]
    numbers = summary(merge(*metrics))
    assume(numbers)
    size = math.exp(min(20.0, float(np.abs((batch.clean().logp - batch.clean().old_logp)[batch.mask]).max(initial=0.0))))
    assert_within(numbers["sampler_mass_gap"], report.mass_gap, 1e-10 * size)
    assert_within(numbers.get("sampler_mass_gap_error", 0.0), report.mass_gap_error, 1e-7 * size)
    for name, part in {"log_s_mean": report.noise.log_s_mean, "log_s_std": report.noise.log_s_std}.items():
        assert_within(numbers[f"sampler_{name}"], part, 1e-6 * (1.0 + math.log(size)) * 10)


@pytest.mark.parametrize("shift", [0.0, 3e-6, 2e-5, 1e-3, -1e-3, 0.2])
@pytest.mark.parametrize("noise", [1e-9, 1e-4, 1e-2])
def test_report_and_diagnosis_call_the_same_engines_biased(shift: float, noise: float, library: Library) -> None:
    """In float32: a response's tokens share part of the noise, and lengths are ragged."""
    rng, mask = np.random.default_rng(5), ragged(0)[1]
    old = -1.0 - rng.exponential(size=mask.shape)
    gap = noise * (rng.normal(size=(60, 1)) + rng.normal(size=mask.shape)) + shift
    arrays = [library.array(x.astype(np.float32)) for x in (old, old - gap)]
    layout, advantage = Padded(library.array(mask)), library.array(np.ones(60, dtype=np.float32))
    report = mismatch_report(arrays[0], *arrays, advantage, layout, Clip(0.2, 0.2))
    metrics = sampler_metrics(TIS, *arrays, layout)
    found = [f.kind for f in diagnose(metrics, thresholds=Thresholds(noise=math.inf))]
    assert (FindingKind.SAMPLER_BIAS in found) == bool(report.biased)
    if abs(shift) < 1e-5 or abs(shift) >= 0.2:
        assert bool(report.biased) == (abs(shift) >= 0.2)


def test_a_single_response_shows_no_bias_since_its_error_is_unknown() -> None:
    old = np.full((1, 5), -1.0)
    assert not bool(mismatch_report(old, old, old - 0.1, np.ones(1), Padded(old < 0), Clip(0.2, 0.2)).biased)
    assert "sampler_mass_gap_error" not in summary(sampler_metrics(TIS, old, old - 0.1, Padded(old < 0)))
