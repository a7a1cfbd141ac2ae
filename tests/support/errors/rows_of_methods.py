"""Wrong calls of small conveniences: `merge` of what are no metrics, `with_clip` of an objective without a clip range."""

from __future__ import annotations

import numpy as np
from support.errors.places import Row
from support.errors.rows import T

from gspo_core import group_metrics, merge
from gspo_core.objectives import SAPO

METHODS: list[Row] = [
    Row(T, ("merge: expected at least one Metrics", "got none", "write merge(*parts)"), merge),
    Row(T, ("merge: expected Metrics", "got list", "write merge(*parts) for a list"), lambda: merge([])),
    Row(T, ("merge: expected Metrics", "got int"), lambda: merge(1, group_metrics(np.ones(1), np.zeros(1, dtype=int)))),
    Row(T, ("with_clip: ", "has no clip range", "surrogate=Clip(0.1, 0.2)"), lambda: SAPO.with_clip(0.1, 0.2)),
]
