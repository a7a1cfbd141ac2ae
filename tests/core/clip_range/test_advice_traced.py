"""What is computed on the device can be traced there, and stays finite: the drift, and the mismatch report."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gspo_core import Clip, Padded, Pilot, clip_range_for
from gspo_core.clip_range import Drift, estimate_drift
from gspo_core.mismatch import MismatchReport, mismatch_report

CLIP = Clip(0.01, 0.02)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated"),
]


def arrays(scale: float = 0.02) -> tuple[np.ndarray, ...]:
    """(logp, old_logp, sampler_logp, advantage, mask) in float32, with an empty row and rubbish in masked slots."""
    rng = np.random.default_rng(0)
    mask = np.arange(7)[None, :] < np.array([7, 3, 0, 5, 1, 6])[:, None]
    old = np.where(mask, -rng.exponential(size=mask.shape), np.nan)
    moved = [old + scale * rng.normal(size=mask.shape) for _ in range(2)]
    advantage = np.array([1.0, -1.0, 9.0, 0.0, -2.0, 1.0])
    return (*(x.astype(np.float32) for x in (moved[0], old, moved[1], advantage)), mask)


def both(logp: Any, old: Any, sampler: Any, advantage: Any, mask: Any) -> tuple[Drift, MismatchReport]:
    """The two functions under test."""
    layout = Padded(mask)
    return estimate_drift(logp, old, layout), mismatch_report(logp, old, sampler, advantage, layout, CLIP)


def leaves(results: Any) -> list[np.ndarray]:
    """All arrays, flat."""
    if isinstance(results, tuple):
        return [leaf for result in results for leaf in leaves(result)]
    return [np.asarray(results)]


def assert_same(found: Any, expected: Any) -> None:
    """In float32: a mean of 22 tokens, and differences of such."""
    pairs = list(zip(leaves(found), leaves(expected), strict=True))
    assert len(pairs) > 30
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_both_run_under_jax_jit() -> None:
    """With strict promotion of types and ranks; nothing asks a tracer for its value."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        found = jax.jit(both)(*map(jnp.asarray, arrays()))
    assert_same(found, both(*arrays()))


@pytest.mark.slow
def test_both_compile_into_one_graph() -> None:
    torch._dynamo.reset()
    found = torch.compile(both, fullgraph=True, backend="eager")(*map(torch.tensor, arrays()))
    assert_same(found, both(*arrays()))


def test_advice_can_be_taken_from_arrays_of_any_library() -> None:
    logp, old, _, advantage, mask = arrays()
    expected = clip_range_for(0.3, Pilot.measure(logp, old, advantage, Padded(mask)))
    for array in (jnp.asarray, torch.tensor):
        logp_, old_, advantage_, mask_ = map(array, (logp, old, advantage, mask))
        if array is torch.tensor:
            logp_.requires_grad_()
        found = clip_range_for(0.3, Pilot.measure(logp_, old_, advantage_, Padded(mask_)))
        assert found.low == pytest.approx(expected.low, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-6, 100.0, 1e6])
def test_every_number_is_finite_for_every_finite_input(scale: float) -> None:
    numbers = leaves(both(*arrays(scale)))
    assert all(np.isfinite(x).all() for x in numbers)
    report = both(*arrays(scale))[1]
    assert float(report.noise_floor) > 0.01 * scale
    assert math.isfinite(float(report.mass_gap_error))
