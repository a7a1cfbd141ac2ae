"""Wrong calls of small conveniences, and of what reads numbers on the host."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from support.errors.places import Row
from support.errors.rows import T, V

from gspo_core import GSPO, Padded, Pilot, diagnose, group_metrics, merge
from gspo_core.advantages import decoupled_advantages
from gspo_core.clip_range import Drift, clip_table
from gspo_core.layouts import next_tokens
from gspo_core.metrics import Metrics, Thresholds
from gspo_core.objectives import SAPO
from gspo_core.planning import Plan


def on_torch(metrics: Metrics) -> Metrics:
    """The same numbers as tensors."""
    return Metrics(*map(torch.from_numpy, metrics))


def weighted(weights: Any) -> Any:
    """Two rewards of two responses."""
    return decoupled_advantages([[1.0, 0.0], [0.0, 1.0]], [0, 0], weights)


BOOK = group_metrics(np.ones(1), np.zeros(1, dtype=int))
ROW = next_tokens(np.arange(3), np.array([0, 3]), mask=np.ones(3) > 0)

METHODS: list[Row] = [
    Row(T, ("metrics: expected arrays of one library", "got ndarray and Tensor"), lambda: merge(BOOK, on_torch(BOOK))),
    Row(V, ("metrics: expected vectors of one length", "and [2]"), lambda: merge(BOOK, Metrics(*[np.ones(2)] * 4))),
    Row(T, ("metrics: expected an array", "got int"), lambda: merge(Metrics(1, 2, 3, 4))),
    Row(T, ("other: expected a Pilot", "got int"), lambda: Pilot([], [], []) + 1),
    Row(T, ("log_s: expected real numbers", "got dtype <U1"), lambda: Pilot(["a"], [1], [1.0])),
    Row(T, ("log_s: expected real numbers", "got str"), lambda: Pilot("a", [1], [1.0])),
    Row(T, ("log_s: expected a list of numbers", "ragged"), lambda: Pilot([[1], 2], [1], [1.0])),
    Row(T, ("log_s: expected an array without a mask", "got a MaskedArray"), lambda: Pilot(np.ma.array([1.0]), [1], [1.0])),
    Row(V, ("lengths: expected numbers of at least 0", "got -1"), lambda: Pilot([0.1], [-1], [1.0])),
    Row(T, ("advantage: expected real numbers", "got dtype bool"), lambda: Plan(np.ones(1) > 0)),
    Row(V, ("rows: expected shape [M]", "got []"), lambda: Plan(np.ones(1)).step(GSPO, Padded(np.ones((1, 1)) > 0), 0)),
    Row(T, ("x: expected an array", "got list"), lambda: ROW.shifted([1, 2, 3])),
    Row(T, ("still: expected a number", "got None"), lambda: Thresholds(still=None)),
    Row(V, ("window: expected a whole number of at least 1", "got nan"), lambda: Thresholds(window=math.nan)),
    Row(T, ("thresholds: expected Thresholds", "got dict"), lambda: diagnose(BOOK, thresholds={})),
    Row(T, ("weights: expected a sequence of numbers", "got array(1.)"), lambda: weighted(np.asarray(1.0))),
    Row(T, ("edges: expected real numbers", "got NoneType"), lambda: clip_table(0.2, Drift.of(1e-3), None, [5])),
    Row(T, ("metrics: expected at least one Metrics", "got none", "write merge(*parts)"), merge),
    Row(T, ("metrics: expected Metrics", "got list", "write merge(*parts) for a list"), lambda: merge([])),
    Row(T, ("metrics: expected Metrics", "got int"), lambda: merge(1, BOOK)),
    Row(
        T,
        ("surrogate: expected one with a clip range, got SoftGate", "surrogate=Clip(0.1, 0.2)"),
        lambda: SAPO.with_clip(0.1, 0.2),
    ),
]
