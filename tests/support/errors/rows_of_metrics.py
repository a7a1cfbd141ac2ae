"""Refusals of the functions that measure: reports, metrics, readings of the clip range and plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from support.errors.places import Row
from support.errors.rows import IDS, LAYOUT, MASK, ONES, ZEROS, T, V

import gspo_core as g
from gspo_core import GSPO, Clip, Objective, SequenceMean
from gspo_core.clip_range import Drift, clip_fraction_for, measured_clip_fraction
from gspo_core.objectives import LinearLoss, TurnMean

SEGMENT = Objective(g.objectives.Turn(), Clip(0.2, 0.2), TurnMean())
SEGMENT_TOKEN = Objective(g.objectives.TurnToken(), Clip(0.2, 0.2), SequenceMean())
GOOD: dict[str, Any] = {"objective": GSPO, "logp": ZEROS, "old_logp": ZEROS, "advantage": ONES, "layout": LAYOUT}
LOSS = g.policy_loss(**GOOD)
BOOK = g.group_metrics(ONES, IDS[:, 0])
LAW, CLIP, NOBODY = Drift.of(2e-4), Clip(3e-4, 4e-4), g.Pilot([], [], [])


def mismatch(advantage: Any = ONES, clip: Any = CLIP) -> Callable[[], Any]:
    """A mismatch report."""
    return lambda: g.mismatch.mismatch_report(ZEROS, ZEROS, ZEROS, advantage, LAYOUT, clip)


def metrics(loss: Any = LOSS, old: Any = ZEROS, objective: Any = GSPO, logp: Any = ZEROS) -> Callable[[], Any]:
    """Metrics of a batch."""
    return lambda: g.batch_metrics(objective, loss, logp, old, ONES, LAYOUT)


def left_out(objective: Any = GSPO, advantage: Any = ONES) -> Callable[[], Any]:
    """Metrics of the responses without an advantage."""
    return lambda: g.metrics.left_out_metrics(objective, advantage, LAYOUT)


READINGS: list[Row] = [
    Row(V, ("clipped: expected a share from 0 to 1", "got 1.5"), lambda: g.metrics.Thresholds(clipped=1.5)),
    Row(V, ("far: expected a number of at least 0", "got -1"), lambda: g.metrics.Thresholds(far=-1)),
    Row(
        T,
        ("action: MeanK3() measures disagreement", "expected Reject(...)", "got Truncate"),
        lambda: g.mismatch.Correction(g.mismatch.MeanK3(), g.mismatch.Truncate(2.0)),
    ),
    Row(V, ("low: expected a weight between 0 and 1", "got 2"), lambda: g.mismatch.TokensInside(2, 3)),
    Row(
        T, ("entropy: expected real floating-point numbers", "got dtype bool"), lambda: g.metrics.entropy_metrics(MASK, LAYOUT)
    ),
    Row(V, ("entropy: expected the layout's shape [2, 3]", "got [2]"), lambda: g.metrics.entropy_metrics(ONES, LAYOUT)),
    Row(T, ("clip: expected a Clip(low, high)", "got Objective"), mismatch(clip=GSPO)),
    Row(V, ("clip: expected widths above 0", "got Clip(low=0.0"), mismatch(clip=Clip(0.0, 0.1))),
    Row(T, ("advantage: expected real numbers", "got dtype bool"), mismatch(ONES > 0)),
    Row(V, ("advantage: expected shape [2], one per sequence", "got [3]"), mismatch(np.ones(3))),
    Row(T, ("clip: expected a Clip(low, high)", "got tuple"), lambda: clip_fraction_for((3e-4, 4e-4), LAW, [10])),
    Row(T, ("target: expected a number",), lambda: g.clip_range_for("15 %", LAW, [10])),
    Row(V, ("target: expected a share in (0, 1)", "got 1.5"), lambda: g.clip_range_for(1.5, LAW, [10])),
    Row(
        V,
        ("high_over_low: expected a positive finite number", "got 0"),
        lambda: g.clip_range_for(0.1, LAW, [10], high_over_low=0),
    ),
    Row(
        V,
        ("target: no clip range clips 0.9 of these responses", "the narrowest clips", "ask for less"),
        lambda: g.clip_range_for(0.9, LAW, [10]),
    ),
    Row(
        V,
        ("target: even Clip(0.999", "moved too far", "lower the learning rate"),
        lambda: g.clip_range_for(0.01, Drift(1e3, -1e3, 2e3, 1.0), [1]),
    ),
    Row(T, ("law: expected a Drift, a BySign or a Pilot", "got str"), lambda: g.clip_range_for(0.1, "law", [10])),
    Row(V, ("law: the pilot has no responses",), lambda: g.clip_range_for(0.1, NOBODY)),
    Row(V, ("lengths: a law without responses of its own needs the lengths",), lambda: g.clip_range_for(0.1, LAW)),
    Row(
        V, ("lengths: expected [n] positive numbers of tokens", "got shape [1, 1]"), lambda: clip_fraction_for(CLIP, LAW, [[1]])
    ),
    Row(T, ("clip: expected a Clip(low, high)", "got float"), lambda: measured_clip_fraction(0.1, NOBODY)),
    Row(T, ("pilot: expected a Pilot", "got Drift"), lambda: measured_clip_fraction(CLIP, LAW)),
    Row(V, ("pilot: expected at least one response",), lambda: measured_clip_fraction(CLIP, NOBODY)),
    Row(V, ("advantage: given without lengths", "give both, or neither"), lambda: clip_fraction_for(CLIP, LAW, None, [1.0])),
    Row(
        V, ("advantage: expected the shape of lengths, [1]", "got [2]"), lambda: clip_fraction_for(CLIP, LAW, [10], [1.0, 2.0])
    ),
    Row(V, ("edges: expected at least two ascending numbers", "got [3]"), lambda: g.clip_range.clip_table(0.1, LAW, [3], [10])),
    Row(V, ("lengths: expected shape [2]", "got [1]"), lambda: g.Pilot([0.1, 0.2], [1], [1.0, 1.0])),
    Row(V, ("log_s: expected finite numbers",), lambda: g.Pilot([float("nan")], [1], [1.0])),
    Row(
        V,
        ("advantage: expected shape [2], one per sequence", "got [3]"),
        lambda: g.Pilot.measure(ZEROS, ZEROS, np.ones(3), LAYOUT),
    ),
    Row(T, ("objective: expected an Objective such as GSPO", "got str"), metrics(objective="gspo")),
    Row(
        T,
        ("objective: expected an Objective such as GSPO", "got str"),
        lambda: g.diagnose(g.group_metrics(ONES, IDS[:, 0]), "gspo"),
    ),
    Row(T, ("loss: expected the result of policy_loss or linear_policy_loss", "got float"), metrics(loss=0.0)),
    Row(
        V,
        ("loss: expected a weight of the layout's shape [2, 3]", "got [2]"),
        metrics(loss=LOSS._replace(logp_grad=ONES)),
    ),
    Row(V, ("loss: expected one of this objective", "[2, 3], got one of [2]"), metrics(objective=g.GRPO)),
    Row(T, ("old_logp: expected an array", "got float"), metrics(old=1.0)),
    Row(T, ("advantage: expected an array", "got NoneType"), lambda: g.batch_metrics(GSPO, LOSS, ZEROS, ZEROS, None, LAYOUT)),
    Row(T, ("lengths: expected real numbers", "got str"), lambda: clip_fraction_for(CLIP, LAW, "x")),
    Row(T, ("advantage: expected real numbers", "complex"), lambda: clip_fraction_for(CLIP, LAW, [10], [1j])),
    Row(T, ("advantage: expected real numbers", "complex"), lambda: g.Pilot.measure(ZEROS, ZEROS, ONES + 1j, LAYOUT)),
    Row(T, ("logp: expected an array, got None", "return_logp=True"), metrics(loss=LinearLoss(*LOSS), logp=None)),
    Row(V, ("old_logp: expected what the loss was computed with", "on_policy=False"), metrics(old=None)),
    Row(T, ("advantage: expected real floating-point numbers", "int"), lambda: g.group_metrics(IDS[:, 0], IDS[:, 0])),
    Row(T, ("group_ids: expected integers", "float64"), lambda: g.group_metrics(ONES, ONES)),
    Row(V, ("advantage: expected shape [N]", "got [2, 3]"), lambda: g.group_metrics(ZEROS, IDS)),
    Row(V, ("group_ids: expected shape [2]", "got [3]"), lambda: g.group_metrics(ONES, IDS[0])),
    Row(T, ("objective: expected an Objective such as GSPO", "got str"), left_out(objective="gspo")),
    Row(T, ("advantage: expected real floating-point numbers", "int"), left_out(advantage=IDS[:, 0])),
    Row(V, ("advantage: expected shape [2], one per sequence", "got [3]"), left_out(advantage=np.ones(3))),
    Row(T, ("metrics: expected Metrics", "got dict"), lambda: g.summary({})),
    Row(
        V,
        ("metrics: expected a vector of", "got shape [1]"),
        lambda: g.summary(g.group_metrics(ONES, IDS[:, 0])._replace(counts=np.zeros(1))),
    ),
    Row(
        V,
        ("metrics: expected counts that fit into int64", "overflowed when they were merged"),
        lambda: g.summary(BOOK._replace(counts=BOOK.counts - 3)),
    ),
    Row(T, ("low: expected a number", "got None"), lambda: g.metrics.clip_share(BOOK, None, 0.1)),
    Row(
        V,
        ("low, high: expected a width in [0, 1) and one of at least 0", "got 2.0 and 0.1"),
        lambda: g.metrics.clip_share(g.group_metrics(ONES, IDS[:, 0]), 2.0, 0.1),
    ),
]

PLAN: list[Row] = [
    Row(V, ("advantage: expected shape [N]", "got [2, 3]"), lambda: g.planning.Plan(ZEROS)),
    Row(T, ("advantage: expected an array", "got list"), lambda: g.planning.Plan([1.0])),
    Row(T, ("loss_has_other_terms: expected True or False", "got 'kl'"), lambda: g.plan([1.0], [0], loss_has_other_terms="kl")),
    Row(T, ("objective: expected an Objective such as GSPO", "got str"), lambda: g.planning.Plan(ONES).step("gspo", LAYOUT)),
    Row(T, ("layout: expected a layout", "got ndarray"), lambda: g.planning.Plan(ONES).step(GSPO, MASK)),
    Row(V, ("layout: expected the sequences of all 3 rows", "got 2"), lambda: g.planning.Plan(np.ones(3)).step(GSPO, LAYOUT)),
    Row(T, ("rows: expected integers", "got dtype bool"), lambda: g.planning.Plan(ONES).step(GSPO, LAYOUT, ONES > 0)),
    Row(V, ("rows: expected numbers from 0 to 1", "got 1 to 3"), lambda: g.planning.Plan(ONES).step(GSPO, LAYOUT, [1, 3])),
]
