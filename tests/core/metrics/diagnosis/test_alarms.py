"""No false alarm on healthy batches of any size and law of log-probs; none is missed where rows or tokens are moved."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.inputs.metric_cases import on_layout
from support.situations.builders import sampler

from gspo_core import GRPO, GSPO, Objective, Padded, diagnose, group_advantages
from gspo_core.metrics import FindingKind

AT_FAULT = {
    FindingKind.NOT_FINITE,
    FindingKind.POSITIVE_LOG_PROBS,
    FindingKind.TOKENS_SHIFTED,
    FindingKind.ROWS_MIXED,
    FindingKind.DOMINANT_RESPONSE,
    FindingKind.FAR_APART,
    FindingKind.ALL_MASKED,
    FindingKind.NOTHING_MEASURED,
}
LAWS = ("exponential", "uniform", "gamma", "nearly certain", "nearly constant", "correlated")


def log_probs(law: str, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Log-probs of sampled tokens, none above 0."""
    if law == "correlated":
        walk = np.cumsum(rng.normal(size=shape), axis=1)
        return np.asarray(-np.abs(walk) / np.sqrt(np.arange(1, shape[1] + 1)))
    drawn = {
        "exponential": -rng.exponential(size=shape),
        "uniform": -3 * rng.random(shape),
        "gamma": -rng.gamma(0.3, 1.5, size=shape),
        "nearly certain": -rng.exponential(size=shape) * (rng.random(shape) < 0.02) - 1e-4,
        "nearly constant": -1.0 + 1e-3 * rng.normal(size=shape),
    }
    return drawn[law]


def moved(old: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """The log-probs of a policy that has moved a little; certain tokens move less."""
    return np.minimum(old + noise * rng.normal(size=old.shape) * np.minimum(1.0, -old), 0.0)


@given(
    law=st.sampled_from(LAWS),
    objective=st.sampled_from([GSPO, GRPO]),
    groups=st.integers(1, 8),
    tokens=st.integers(2, 100),
    noise=st.sampled_from([0.0, 1e-4, 0.03, 0.2]),
    solved=st.floats(0.05, 0.95),
    seed=st.integers(0, 999),
)
def test_no_healthy_batch_is_said_to_be_at_fault(
    law: str, objective: Objective, groups: int, tokens: int, noise: float, solved: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    old = log_probs(law, rng, (8 * groups, tokens))
    mask = np.arange(tokens) < rng.integers(1, tokens + 1, size=(8 * groups, 1))
    rewards = (rng.random(8 * groups) < solved).astype(float)
    advantage = group_advantages(rewards, np.repeat(np.arange(groups), 8))
    metrics = on_layout(objective, moved(old, noise, rng), old, advantage, Padded(mask))
    assert not {finding.kind for finding in diagnose(metrics, objective)} & AT_FAULT


@given(
    law=st.sampled_from(LAWS[:3]),
    rows=st.integers(32, 96),
    tokens=st.integers(16, 100),
    by=st.sampled_from([-1, 1]),
    seed=st.integers(0, 999),
)
def test_moved_rows_and_tokens_are_found_in_either_array(law: str, rows: int, tokens: int, by: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    old = log_probs(law, rng, (rows, tokens))
    new, layout, advantage = moved(old, 1e-3, rng), Padded(np.full((rows, tokens), True)), rng.normal(size=rows)
    for axis, kind in ((1, FindingKind.TOKENS_SHIFTED), (0, FindingKind.ROWS_MIXED)):
        for pair in ((np.roll(new, by, axis), old), (new, np.roll(old, by, axis))):
            kinds = [finding.kind for finding in diagnose(on_layout(GSPO, *pair, advantage, layout), GSPO)]
            assert kinds[0] is kind


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@given(places=st.sets(st.tuples(st.integers(0, 63), st.integers(0, 19)), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_numbers_that_are_none_are_said_and_hide_no_bias(value: float, places: set[tuple[int, int]], seed: int) -> None:
    gap = math.log(0.9) + 1e-3 * np.random.default_rng(seed).normal(size=(64, 20))
    for place in places:
        gap[place] = value
    kinds = [finding.kind for finding in diagnose(sampler(gap), GSPO)]
    assert kinds[0] is FindingKind.NOT_FINITE
    assert FindingKind.SAMPLER_BIAS in kinds
