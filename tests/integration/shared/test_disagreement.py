"""The mismatch report of a rollout is that of all its responses, however they were cut into micro-batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gspo_core import GRPO, GSPO, Clip, Padded
from gspo_core.mismatch import mismatch_report
from integration.shared.disagreement import REPORTED, Mismatch

SHORT = replace(GSPO, surrogate=Clip(0.03, 0.04))


def batch(kind: str) -> list:
    """Log-probs [6, 5] of three policies, advantages and a mask with rows of all lengths; NaN in masked slots."""
    rng = np.random.default_rng(0)
    mask = np.arange(5) < np.array([5, 3, 1, 4, 2, 5])[:, None]
    old = rng.normal(size=mask.shape) - 2
    arrays = [old + 0.05 * rng.normal(size=mask.shape), old, old - 0.08 * rng.normal(size=mask.shape)]
    found = [np.where(mask, x, np.nan) for x in arrays] + [np.array([1.0, 1.0, -0.5, 0.5, -1.0, 1.0]), mask]
    return [torch.from_numpy(x) for x in found] if kind == "torch" else found


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_micro_batches_make_one_report(kind: str) -> None:
    *logps, advantage, mask = batch(kind)
    whole = mismatch_report(*logps, advantage, Padded(mask), SHORT.surrogate)
    collected = Mismatch(SHORT)
    for rows, width in ((slice(0, 2), 5), (slice(2, 3), 1), (slice(3, 6), 5)):
        parts = [x[rows, :width] for x in logps]
        collected.add(*parts, advantage[rows], Padded(mask[rows, :width]))
    found = collected.row()
    assert set(found) == {f"mismatch_{name}" for name in REPORTED}
    for name in REPORTED:
        assert found[f"mismatch_{name}"] == pytest.approx(float(getattr(whole, name)), rel=1e-9, abs=1e-12)
    assert 0 < found["mismatch_gate_disagreement"] < 1, "no decision changes: nothing is compared"
    assert 0 < found["mismatch_log_s_noise_share"] < 1


@pytest.mark.parametrize("objective", [GRPO, replace(GSPO, surrogate=Clip(0.0, 0.1))])
def test_without_a_clip_range_of_responses_there_is_no_report(objective: object) -> None:
    """A ratio per token has no decision about a response; noise has no share of a width of 0."""
    *logps, advantage, mask = batch("numpy")
    collected = Mismatch(objective)  # type: ignore[arg-type]  # wrong on purpose
    collected.add(*logps, advantage, Padded(mask))
    assert collected.row() == {}


def test_without_an_engine_there_is_no_report() -> None:
    assert Mismatch(SHORT).row() == {}
