"""The gate: open on the bound, one-sided, zero gradient exactly where it is closed (theory B6, B7, E1, E2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from budgets import REL64, assert_close64, assert_within
from cases import CLIPS, Batch, Case, batches, core_loss
from hypothesis import given
from hypothesis import strategies as st
from libraries import NUMPY, Library

from gspo_core import GSPO, Clip

DTYPES = [np.float32, np.float64]
log_ratios = st.floats(-20, 20)
advantages = st.floats(-10, 10).map(lambda a: a if abs(a) > 1e-3 else 0.0)
widths = st.tuples(st.floats(0, 0.99), st.floats(0, 10))


def gain(library: Library, clip: tuple[float, float], log_ratio: Any, advantage: Any, dtype: type = np.float64) -> tuple:
    """(value, slope) of a clip as NumPy arrays."""
    x, a = np.broadcast_arrays(np.asarray(log_ratio, dtype=dtype), np.asarray(advantage, dtype=dtype))
    arrays = [library.array(np.array(y)) for y in (x, a)]
    xp = arrays[0].__array_namespace__() if library.name != "torch" else __import__("array_api_compat.torch", fromlist=["x"])
    return tuple(library.numpy(y) for y in Clip(*clip)(xp, *arrays))


def single(log_ratio: float, advantage: float, low: float, high: float, dtype: type) -> Batch:
    """One sequence of one token whose log ratio is the given number, exactly."""
    x = np.array([[dtype(log_ratio)]], dtype=np.float64)
    logp, old = np.minimum(x, 0.0), np.minimum(-x, 0.0)
    return Batch(logp, old, np.ones((1, 1), dtype=bool), np.array([advantage]), np.array([[advantage]]), low, high)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("low", "high"), CLIPS)
def test_the_gate_is_open_on_the_bound_and_closed_one_step_beyond(
    library: Library, case: Case, dtype: type, low: float, high: float
) -> None:
    for bound, advantage in ((np.log1p(high), 2.0), (np.log1p(-low), -2.0)):
        on = dtype(bound)
        beyond = np.nextafter(on, dtype(np.copysign(np.inf, advantage)))
        inside = np.nextafter(on, dtype(np.copysign(np.inf, -advantage)))
        for log_ratio, is_clipped in ((inside, False), (on, False), (beyond, True)):
            batch = single(log_ratio, advantage, low, high, dtype)
            loss = core_loss(library, batch.with_clip(case.preset), batch, dtype=dtype)
            assert loss.clipped.reshape(-1).tolist() == [is_clipped]
            expected = 0.0 if is_clipped else -advantage * np.exp(float(log_ratio))
            assert_within(loss.logp_grad, [[expected]], 4 * np.finfo(dtype).eps * abs(expected))


def test_the_other_spelling_of_the_gate_gives_another_subgradient_on_the_bound() -> None:
    """Why the closed form pins it: at a tie, autograd through minimum halves the gradient."""
    log_s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    s = log_s.exp()
    (tie,) = torch.autograd.grad(torch.minimum(s, s.clamp(1.0, 1.0)), log_s)
    assert tie.item() != 0.0
    batch = single(0.0, 1.0, 0.0, 0.0, np.float64)
    assert core_loss(NUMPY, replace(GSPO, surrogate=Clip(0.0, 0.0)), batch).logp_grad.tolist() == [[-1.0]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_band_of_width_zero_leaves_reinforce_and_recovering_units(library: Library, case: Case, dtype: type) -> None:
    """B7: s = 1 is live; otherwise only A > 0 with s < 1 and A < 0 with s > 1 are."""
    d, advantage = np.array([0.0, 0.0, 0.1, 0.1, -0.1, -0.1]), np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    width = (6, 1)
    batch = Batch(d[:, None], np.zeros(width), np.ones(width, dtype=bool), advantage, advantage[:, None], 0.0, 0.0)
    loss = core_loss(library, batch.with_clip(case.preset), batch, dtype=dtype)
    assert loss.clipped.reshape(-1).tolist() == [False, False, True, False, False, True]
    live = np.array([1, 1, 0, 1, 1, 0])
    d_rounded = d.astype(dtype).astype(np.float64)
    expected = (-live * advantage * np.exp(d_rounded) / 6)[:, None]
    assert_within(loss.logp_grad, expected, 4 * np.finfo(dtype).eps)


@given(log_ratio=log_ratios, advantage=advantages, clip=widths)
def test_only_one_bound_matters(library: Library, log_ratio: float, advantage: float, clip: tuple[float, float]) -> None:
    """E1: A min(s, 1 + high) for A > 0, A max(s, 1 − low) for A < 0."""
    s = np.exp(log_ratio)
    expected = advantage * (min(s, 1 + clip[1]) if advantage > 0 else max(s, 1 - clip[0]))
    value, _ = gain(library, clip, log_ratio, advantage)
    assert_within(value, expected, REL64 * abs(expected))


@given(log_ratio=log_ratios, advantage=advantages, clip=widths)
def test_the_gain_is_bounded_above_but_not_below(library: Library, log_ratio: float, advantage: float, clip: tuple) -> None:
    """E1, E2: clipping never raises the gain; at most (1 + high) A for A > 0 and −(1 − low)|A| for A < 0."""
    value, _ = gain(library, clip, log_ratio, advantage)
    unclipped = np.exp(log_ratio) * advantage
    ceiling = (1 + clip[1]) * advantage if advantage > 0 else (1 - clip[0]) * advantage
    assert value <= min(unclipped, ceiling) + REL64 * (abs(unclipped) + abs(ceiling))


def test_a_negative_advantage_has_no_lower_limit(library: Library) -> None:
    values = gain(library, (0.2, 0.2), [1.0, 5.0, 20.0], -1.0)[0]
    assert_close64(values, -np.exp([1.0, 5.0, 20.0]))


@given(log_ratio=log_ratios, advantage=advantages, clip=widths, wider=st.tuples(st.floats(0, 0.009), st.floats(0, 5)))
def test_a_wider_band_never_lowers_the_gain(
    library: Library, log_ratio: float, advantage: float, clip: tuple, wider: tuple
) -> None:
    (narrow, _), (wide, _) = (gain(library, c, log_ratio, advantage) for c in (clip, (clip[0] + wider[0], clip[1] + wider[1])))
    assert wide >= narrow - REL64 * abs(narrow)


@given(points=st.tuples(log_ratios, log_ratios), share=st.floats(0, 1), advantage=advantages, clip=widths)
def test_the_gain_is_monotone_concave_and_lipschitz_in_s(
    library: Library, points: tuple, share: float, advantage: float, clip: tuple
) -> None:
    s = np.exp(np.sort(points))
    between = share * s[0] + (1 - share) * s[1]
    (low, high, mid) = gain(library, clip, np.log([s[0], s[1], between]), advantage)[0]
    slack = 100 * REL64 * (1 + s[1]) * (1 + abs(advantage))
    assert (high - low) * np.sign(advantage) >= -slack
    assert mid >= share * low + (1 - share) * high - slack
    assert abs(high - low) <= abs(advantage) * (s[1] - s[0]) + slack


@given(batch=batches())
def test_the_weight_is_zero_exactly_where_clipped_or_without_advantage(library: Library, case: Case, batch: Batch) -> None:
    """E2, E3: `clipped` counts exactly the units with an advantage and no gradient."""
    advantage = batch.advantages(case.per_token)
    loss = core_loss(library, batch.with_clip(case.preset), batch, advantage)
    units = batch.mask if case.per_token else batch.mask.any(axis=1)
    dead = loss.logp_grad == 0 if case.per_token else (loss.logp_grad == 0).all(axis=1)
    without = np.where(units, advantage, 0.0) == 0
    assert (loss.clipped == (dead & units & ~without)).all()
    assert dead[without].all()
