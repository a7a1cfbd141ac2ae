"""Staleness and engine noise are told apart, and what noise does to the gate is counted."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.budgets import assert_close64, assert_within
from support.cases import Batch, batches
from support.libraries import NUMPY, Library
from support.oracles import advice as oracle_advice

from gspo_core import GSPO, Clip, Packed, Padded, policy_loss
from gspo_core.mismatch import MismatchReport, mismatch_report

CLIP = Clip(0.02, 0.03)


def report_of(library: Library, batch: Batch, sampler: np.ndarray, clip: Clip = CLIP) -> MismatchReport:
    """On one library."""
    arrays = (library.array(x) for x in (batch.logp, batch.old_logp, sampler, batch.advantage))
    return mismatch_report(*arrays, Padded(library.array(batch.mask)), clip)


def sampler_of(batch: Batch, seed: int, scale: float) -> np.ndarray:
    """The sampler's log-probs: the old ones and noise; rubbish in masked slots."""
    noise = scale * np.random.default_rng(seed).normal(size=batch.mask.shape)
    return np.where(batch.mask, batch.old_logp + noise, math.nan)


def parts(batch: Batch, sampler: np.ndarray) -> list[oracle_advice.Rows]:
    """Staleness, noise and total, row by row."""
    c, own = batch.clean(), batch.mask
    pairs = ((c.logp, c.old_logp), (c.old_logp, sampler), (c.logp, sampler))
    return [[(a[i, own[i]] - b[i, own[i]]).tolist() for i in range(len(own))] for a, b in pairs]


@given(batch=batches(edges=False), seed=st.integers(0, 2**16), scale=st.sampled_from([1e-4, 0.03, 1.0]))
def test_the_report_is_that_of_scalar_loops(library: Library, batch: Batch, seed: int, scale: float) -> None:
    sampler = sampler_of(batch, seed, scale)
    found, rows = report_of(library, batch, sampler), parts(batch, sampler)
    largest = max((abs(x) for part in rows for x in oracle_advice.flat(part)), default=0.0)
    tight = 1e-10 * (1.0 + largest)
    there = [i for i in range(len(batch.mask)) if batch.mask[i].any()]
    for part, own in zip((found.staleness, found.noise, found.total), rows, strict=True):
        drift = oracle_advice.drift(own)
        log_s = [oracle_advice.log_s(own[i]) for i in there]
        assert_within(float(part.drift.kappa), drift.kappa, 1e-10 * math.exp(largest))
        assert_within(float(part.drift.mean), drift.mean, tight)
        assert_within(float(part.token_std), math.sqrt(drift.variance), 1e-6 * (1 + largest))
        assert_within(library.numpy(part.log_s)[there], log_s, tight)
        assert_within(float(part.log_s_mean), math.fsum(log_s) / max(1, len(log_s)), tight)
        assert_within(float(part.log_s_std), oracle_advice.spread(log_s), 1e-6 * (1 + largest))
    noise_s = [oracle_advice.log_s(rows[1][i]) for i in there]
    floor = math.sqrt(math.fsum(x * x for x in noise_s) / max(1, len(there)))
    assert_within(float(found.noise_floor), floor, tight)
    assert_within(float(found.noise_floor_share), floor / -math.log(0.98), 51 * tight)
    if min(float(found.staleness.token_std), float(found.noise.token_std)) > 1e-3 * largest:
        expected = oracle_advice.correlation(*map(oracle_advice.flat, rows[:2]))
        assert_within(float(found.token_correlation), expected, 1e-6)
    if min(float(found.staleness.log_s_std), float(found.noise.log_s_std)) > 1e-3 * largest:
        expected = oracle_advice.correlation(*([oracle_advice.log_s(part[i]) for i in there] for part in rows[:2]))
        assert_within(float(found.log_s_correlation), expected, 1e-6)
    gap, error = oracle_advice.mass_gap(rows[1])
    assert_within([float(found.mass_gap), float(found.mass_gap_error)], [gap, error], 1e-7 * math.exp(largest))


@given(batch=batches(edges=False), seed=st.integers(0, 2**16), scale=st.sampled_from([0.01, 0.3]))
def test_gate_decisions_are_those_of_the_loss(library: Library, batch: Batch, seed: int, scale: float) -> None:
    """Both counted as the loss itself clips, once with the old log-probs and once with the sampler's in their place."""
    sampler = sampler_of(batch, seed, scale)
    found = report_of(library, batch, sampler)
    objective, layout = dataclasses.replace(GSPO, surrogate=CLIP), Padded(batch.mask)
    by_old, by_sampler = (
        policy_loss(objective, batch.logp, old, batch.advantage, layout).clipped for old in (batch.old_logp, sampler)
    )
    count = max(1, int(batch.mask.any(axis=1).sum()))
    expected = [by_old.sum() / count, by_sampler.sum() / count, (by_old != by_sampler).sum() / count]
    assert_close64(_gates(found), expected, 1.0)


def _gates(found: MismatchReport) -> list[float]:
    return [float(found.clipped_by_old), float(found.clipped_by_sampler), float(found.gate_disagreement)]


def independent(n: int, width: int, stale: float, noise: float, shift: float = 0.0) -> MismatchReport:
    """Staleness that is half shared by a response's tokens, and independent engine noise that is normalised."""
    rng = np.random.default_rng(0)
    old = -rng.exponential(size=(n, width))
    drift = stale * (rng.normal(size=(n, 1)) + rng.normal(size=(n, width))) / math.sqrt(2)
    engine = noise * rng.normal(size=(n, width)) - noise**2 / 2 + shift
    return mismatch_report(old + drift, old, old - engine, np.where(np.arange(n) % 2, 1.0, -1.0), Padded(old < 0), CLIP)


def test_noise_is_independent_and_staleness_is_not() -> None:
    """Design effects 1 and 1 + 15/2; noise has half of the tokens' variance, but a tenth of that of log s."""
    found = independent(4000, 16, 0.02, 0.02)
    assert float(found.noise.drift.design_effect) == pytest.approx(1.0, abs=0.1)
    assert float(found.staleness.drift.design_effect) == pytest.approx(8.5, rel=0.1)
    assert float(found.token_noise_share) == pytest.approx(0.5, abs=0.02)
    assert float(found.log_s_noise_share) == pytest.approx(1 / 9.5, abs=0.02)
    assert abs(float(found.token_correlation)) < 0.02
    assert abs(float(found.log_s_correlation)) < 0.07
    assert float(found.noise_floor) == pytest.approx(0.02 / 4, rel=0.06)
    assert not bool(found.biased)


def test_the_noise_floor_of_log_s_falls_as_the_root_of_the_length() -> None:
    floors = [float(independent(2000, width, 0.0, 0.02).noise_floor) for width in (4, 16, 64)]
    slope = np.polyfit(np.log([4, 16, 64]), np.log(floors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.03)


def test_the_factors_multiply() -> None:
    """Theory D3: log s of the total is the sum of the parts'."""
    found = independent(50, 8, 0.3, 0.1)
    assert_close64(found.total.log_s, found.staleness.log_s + found.noise.log_s, 2.0)
    assert_close64(found.total.drift.mean, found.staleness.drift.mean + found.noise.drift.mean, 2.0)


def test_a_noise_that_undoes_the_drift_is_correlated_with_it() -> None:
    rng = np.random.default_rng(1)
    old = -rng.exponential(size=(100, 8))
    drift = 0.1 * rng.normal(size=old.shape)
    found = mismatch_report(old + drift, old, old + drift, np.ones(100), Padded(old < 0), CLIP)
    assert_close64([float(found.token_correlation), float(found.log_s_correlation)], [-1.0, -1.0])
    assert float(np.abs(found.total.log_s).max()) < 1e-15
    assert float(found.clipped_by_sampler) == 0 < float(found.clipped_by_old) == float(found.gate_disagreement)


def test_equal_engines_have_no_mismatch() -> None:
    old = -np.random.default_rng(0).exponential(size=(6, 5))
    found = mismatch_report(old + 0.1, old, old, np.ones(6), Padded(old < 0), CLIP)
    assert [float(x) for x in (found.noise_floor, found.gate_disagreement, found.mass_gap, found.token_noise_share)] == [
        0.0
    ] * 4
    assert not bool(found.biased)


@pytest.mark.parametrize("kept", [0.9, 0.999])
def test_a_top_p_that_the_trainer_does_not_know_is_biased(kept: float) -> None:
    """The engine renormalises what top-p has left: log-probs higher by −log(kept), gap kept − 1."""
    found = independent(400, 32, 0.01, 1e-3, shift=math.log(kept))
    assert bool(found.biased)
    assert float(found.mass_gap) == pytest.approx(kept - 1, abs=1e-4)
    # The guard: as much of normalised noise is none.
    assert not bool(independent(400, 32, 0.01, 0.1).biased)


def test_chance_is_seldom_called_a_bias() -> None:
    rng = np.random.default_rng(3)
    layout, found = Padded(np.full((40, 10), True)), []
    for _ in range(300):
        engine = 0.05 * rng.normal(size=(40, 10)) - 0.05**2 / 2
        report = mismatch_report(np.zeros((40, 10)), np.zeros((40, 10)), -engine, np.ones(40), layout, CLIP)
        found.append((bool(report.biased), float(report.mass_gap) / float(report.mass_gap_error)))
    assert not any(biased for biased, _ in found)
    assert np.std([z for _, z in found]) == pytest.approx(1.0, abs=0.15), "the standard error is that of the mean"


@given(batch=batches(edges=False), seed=st.integers(0, 2**16))
def test_packed_and_padded_agree_and_rubbish_is_inert(batch: Batch, seed: int) -> None:
    sampler = sampler_of(batch, seed, 0.1)
    own, rows = batch.mask, np.nonzero(batch.mask)[0]
    packed = mismatch_report(
        batch.logp[own], batch.old_logp[own], sampler[own], batch.clean().advantage, Packed(rows, len(own)), CLIP
    )
    padded, clean = (report_of(NUMPY, b, np.where(own, sampler, x)) for b, x in ((batch, math.inf), (batch.clean(), 0.0)))
    largest = max((abs(x) for part in parts(batch, sampler) for x in oracle_advice.flat(part)), default=0.0)
    for name in ("noise_floor", "gate_disagreement", "clipped_by_old"):
        assert_within(float(getattr(packed, name)), float(getattr(padded, name)), 1e-10 * (1 + largest))
        assert float(getattr(padded, name)) == float(getattr(clean, name))


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (3, 0)])
def test_nothing_to_report_is_zero_and_finite(shape: tuple[int, int]) -> None:
    zero = np.zeros(shape)
    found = mismatch_report(zero, zero, zero, np.zeros(shape[0]), Padded(np.full(shape, True)), CLIP)
    assert [float(x) for x in found[3:]] == [0.0] * len(found[3:])


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"clip": (0.1, 0.1)}, TypeError, "clip: expected a Clip"),
        ({"clip": Clip(0.0, 0.1)}, ValueError, "clip: expected widths above 0"),
        ({"advantage": np.ones((2, 3))}, ValueError, r"advantage: expected shape \[2\]"),
        ({"advantage": np.array([True, False])}, TypeError, "advantage: expected real numbers, got dtype bool"),
        ({"sampler_logp": np.zeros((3, 2))}, ValueError, r"sampler_logp: expected the layout's shape \[2, 3\]"),
        ({"sampler_logp": np.zeros((2, 3), dtype=np.float16)}, TypeError, "sampler_logp: expected float32 or float64"),
        ({"layout": np.full((2, 3), True)}, TypeError, "layout: expected a layout"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], error: type[Exception], sentence: str) -> None:
    zero = np.zeros((2, 3))
    good = {
        **dict.fromkeys(("logp", "old_logp", "sampler_logp"), zero),
        "advantage": np.ones(2), "layout": Padded(zero == 0), "clip": CLIP,
    }  # fmt: skip
    mismatch_report(**good)
    with pytest.raises(error, match=sentence):
        mismatch_report(**{**good, **changes})
