"""Micro-batches and ranks are parts of an update: how many updates were seen does not depend on how they were divided."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.inputs.metric_cases import on_layout

from gspo_core import GRPO, GSPO, Objective, Padded, diagnose, merge, summary
from gspo_core.metrics import FindingKind, Metrics, left_out_metrics
from gspo_core.objectives import DAPO

pytestmark = pytest.mark.slow

N = 8
OLD = np.full((N, 6), -1.0)
ADVANTAGE = np.array([1.0, -0.5, 0.25, 0.25, -1.0, 0.5, 0.5, -0.25])
LAYOUT = Padded(np.arange(6) < np.array([1, 6, 3, 2, 5, 4, 6, 2])[:, None])


def update(objective: Objective, cuts: list[int], advantage: np.ndarray = ADVANTAGE, rows: np.ndarray | None = None) -> Metrics:
    """An optimizer step whose rows were divided at `cuts`; only `rows` were run, where they are given."""
    rows = np.arange(N) if rows is None else rows
    parts = [rows[a:b] for a, b in pairwise([0, *sorted(cuts), len(rows)])]
    total = float(objective.count(LAYOUT))
    return merge(*[on_layout(objective, OLD[x], OLD[x], advantage[x], Padded(LAYOUT.mask[x]), total) for x in parts])


def kinds(metrics: Metrics, objective: Objective) -> set[FindingKind]:
    return {finding.kind for finding in diagnose(metrics, objective)}


@pytest.mark.parametrize("objective", [GSPO, GRPO, DAPO], ids=["sequences", "tokens of sequences", "tokens"])
@given(steps=st.lists(st.lists(st.integers(0, N), max_size=4), min_size=1, max_size=4))
def test_ratios_of_1_are_a_mistake_from_the_second_update_on_however_it_is_divided(
    objective: Objective, steps: list[list[int]]
) -> None:
    seen = merge(*[update(objective, cuts) for cuts in steps])
    assert summary(seen)["updates"] == pytest.approx(len(steps), rel=1e-12)
    assert (FindingKind.RATIO_IS_ONE in kinds(seen, objective)) == (len(steps) > 1)


@given(steps=st.integers(1, 3), cuts=st.lists(st.integers(0, 4), max_size=3), zeros=st.sets(st.integers(0, N - 1), max_size=6))
def test_an_update_of_which_a_part_was_never_run_is_one_update(steps: int, cuts: list[int], zeros: set[int]) -> None:
    advantage = np.where(np.isin(np.arange(N), sorted(zeros)), 0.0, ADVANTAGE)
    ran = update(GSPO, [min(cut, N - len(zeros)) for cut in cuts], advantage, np.flatnonzero(advantage))
    seen = merge(*[merge(ran, left_out_metrics(GSPO, advantage, LAYOUT))] * steps)
    assert summary(seen)["updates"] == pytest.approx(steps, rel=1e-12)
    assert (FindingKind.RATIO_IS_ONE in kinds(seen, GSPO)) == (steps > 1)
