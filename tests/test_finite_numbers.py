"""Any finite input gives a finite value and weight, and the guards change nothing inside |log s| < 50."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from budgets import REL64, assert_close64, assert_same_bits, assert_within, float32_budget
from cases import CASES, Batch, Case, core_loss
from hypothesis import given
from hypothesis import strategies as st
from libraries import NUMPY, Library

from gspo_core import GRPO, GSPO, Clip

DTYPES = [np.float32, np.float64]
HUGE = [1e6, 1e5, 1e3, 100.0, 89.0, 88.0, 50.0, -50.0, -88.0, -104.0, -746.0, -1e3, -1e6]


def rows(d: np.ndarray, advantage: np.ndarray, low: float = 0.2, high: float = 0.2) -> Batch:
    """One sequence per row of d, all valid."""
    tokens = np.repeat(advantage[:, None], d.shape[1], axis=1)
    return Batch(np.minimum(d, 0), np.minimum(-d, 0), np.ones(d.shape, dtype=bool), advantage, tokens, low, high)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("advantage", [0.0, 1.0, -1.0, 1e3, -1e3, 1e-3, -1e-3])
@pytest.mark.parametrize("width", [1, 3])
def test_log_ratios_of_a_million_are_finite(library: Library, case: Case, dtype: type, advantage: float, width: int) -> None:
    d = np.repeat(np.array(HUGE)[:, None], width, axis=1)
    batch = rows(d, np.full(len(d), advantage))
    loss = core_loss(library, batch.with_clip(case.preset), batch, dtype=dtype)
    for x in (loss.value, loss.logp_grad, loss.log_ratio):
        assert x.dtype == dtype
        assert np.isfinite(x).all()
    if advantage == 0:
        assert_same_bits(loss.value, np.zeros((), dtype=dtype))
        assert not loss.logp_grad.any()
        assert not loss.clipped.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_mixed_extremes_in_one_sequence_are_finite(library: Library, case: Case, dtype: type) -> None:
    """±1e6 in one response: for the token ratio all of them, for the sequence ratios their mean."""
    d = np.array([[1e6, -1e6, 0.0, 3.0], [1e6, 1e6, 1e6, -1e6], [-1e6, -1e6, 1.0, 0.0]])
    batch = rows(np.vstack([d, d, d]), np.repeat([1.0, -1.0, 0.0], 3))
    loss = core_loss(library, batch.with_clip(case.preset), batch, dtype=dtype)
    assert np.isfinite(loss.value)
    assert np.isfinite(loss.logp_grad).all()


def test_the_naive_formula_is_not_finite_there() -> None:
    """The guard's reason: 0 · ∞."""
    with np.errstate(all="ignore"):
        assert np.isnan(np.exp(1e6) * 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
@given(log_ratio=st.floats(-49.9, 49.9), advantage=st.sampled_from([-2.0, -1.0, 0.5, 1.0]))
def test_no_gradient_of_the_paper_is_zeroed_and_no_number_changed_inside_fifty(
    library: Library, case: Case, dtype: type, log_ratio: float, advantage: float
) -> None:
    log_ratio = float(dtype(log_ratio))
    batch = rows(np.array([[log_ratio]]), np.array([advantage]))
    loss, verdict = core_loss(library, batch.with_clip(case.preset), batch, dtype=dtype), batch.judged(case)
    # The relative error of exp, a few units of rounding; its argument is exact here.
    budget = 8 * float(np.finfo(dtype).eps)
    on_bound = batch.distance_to_kinks(case, hits=True) < 2 * np.finfo(dtype).eps
    if not on_bound:
        assert_within(loss.logp_grad, verdict.weight, budget * np.abs(verdict.weight))
        assert (loss.logp_grad != 0).tolist() == (np.asarray(verdict.weight) != 0).tolist()
    assert_within(loss.value, verdict.value, budget * verdict.scale)


def test_the_guard_acts_on_the_mean_not_on_tokens_before_it(library: Library) -> None:
    """d = (200, −200): s = 1. A clamp of the tokens at ±50 would leave that, (200, −100) → log s = 50 it would not."""
    batch = rows(np.array([[200.0, -200.0], [120.0, -100.0]]), np.array([-1.0, -1.0]))
    loss = core_loss(library, batch.with_clip(GSPO), batch)
    assert_close64(loss.log_ratio, [0.0, 10.0])
    assert_close64(loss.logp_grad, [[0.25, 0.25], [np.exp(10.0) / 4] * 2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_beyond_fifty_the_loss_keeps_rising_and_pushes_down(library: Library, case: Case, dtype: type) -> None:
    """For A < 0 the gradient never vanishes, it stays at its value at e^50."""
    d = np.array([[49.0], [50.0], [51.0], [60.0], [1e3], [1e6]])
    values, weights = [], []
    for row in d:
        batch = rows(row[None, :], np.array([-1.0]))
        loss = core_loss(library, batch.with_clip(case.preset), batch, dtype=dtype)
        values.append(float(loss.value))
        weights.append(float(loss.logp_grad[0, 0]))
    assert (np.diff(values) > 0).all()
    # Float32 rounds the argument exactly here; exp in float32 is good to a few units.
    assert_within(weights[1:], [np.exp(50.0)] * 5, 8 * np.finfo(dtype).eps * np.exp(50.0))


def test_tiny_and_huge_advantages_scale_through(library: Library, case: Case) -> None:
    d = np.array([[0.1, -0.05], [0.0, 0.02]])
    for size in (1e-20, 1e20):
        one, many = rows(d, np.array([1.0, -1.0])), rows(d, np.array([size, -size]))
        a, b = (core_loss(library, x.with_clip(case.preset), x, dtype=np.float32) for x in (one, many))
        assert_within(b.logp_grad / size, a.logp_grad, float32_budget(4, 0.1) * np.abs(a.logp_grad))


def test_the_clip_decision_survives_float32_at_the_papers_widths(library: Library) -> None:
    """3e-4 is 2500 units of rounding at 1: a grid of log ratios around both bounds, decided as in float64."""
    bounds = np.log1p([-3e-4, 4e-4])
    d = (bounds[:, None] * (1 + np.linspace(-1e-3, 1e-3, 20))).reshape(-1, 1).astype(np.float32).astype(np.float64)
    for advantage in (1.0, -1.0):
        batch = replace(rows(d, np.full(len(d), advantage)), low=3e-4, high=4e-4)
        wide, narrow = (core_loss(library, GSPO, batch, dtype=dtype).clipped for dtype in (np.float64, np.float32))
        assert (wide == narrow).all()
        assert wide.any()
        assert not wide.all()


def test_the_surrogate_is_its_own_derivative_across_the_guard() -> None:
    """Value and slope of the clip stay consistent at 50, by central differences."""
    x, h = np.array([49.5, 49.99, 50.01, 51.0, 1000.0]), 1e-4
    up, down = (Clip(0.2, 0.2)(np, x + s * h, np.full(5, -1.0)).value for s in (1, -1))
    slope = Clip(0.2, 0.2)(np, x, np.full(5, -1.0)).slope
    # h²/6 = 2e-9 for exp, plus rounding of the values over the step: 1e-16 · 1000 / 1e-4.
    assert_within((up - down) / (2 * h), slope, 1e-8 * np.abs(slope))


def test_the_objectives_differ_at_extremes_so_that_the_parametrisation_means_something() -> None:
    batch = rows(np.array([[1e6, -1e6]]), np.array([-1.0]))
    gspo, grpo = (core_loss(NUMPY, batch.with_clip(p), batch).value for p in (GSPO, GRPO))
    assert_close64(gspo, 1.0, 1 / REL64 * 1e-15)
    assert grpo > 1e20
    assert len(CASES) == 3
