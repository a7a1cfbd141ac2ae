"""Wrong calls of the core's functions, one row per error: arrays, shapes, dtypes, combinations, options without effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from support.errors.places import Row
from support.errors.rows import IDS, LAYOUT, MASK, ONES, ROUTER, TURNS, ZEROS, T, V

import gspo_core as g
from gspo_core import GSPO, GSPO_TOKEN, Clip, Objective, Packed, Padded, PerToken, SequenceMean
from gspo_core.clip_range import Drift, clip_fraction_for, measured_clip_fraction
from gspo_core.objectives import LinearLoss, TurnMean
from gspo_core.routing import router_shift

SEGMENT = Objective(g.objectives.Turn(), Clip(0.2, 0.2), TurnMean())
SEGMENT_TOKEN = Objective(g.objectives.TurnToken(), Clip(0.2, 0.2), SequenceMean())
GOOD: dict[str, Any] = {"objective": GSPO, "logp": ZEROS, "old_logp": ZEROS, "advantage": ONES, "layout": LAYOUT}
LOSS = g.policy_loss(**GOOD)
BOOK = g.group_metrics(ONES, IDS[:, 0])
LAW, CLIP, NOBODY = Drift.of(2e-4), Clip(3e-4, 4e-4), g.Pilot([], [], [])


def loss(**wrong: Any) -> Callable[[], Any]:
    """A loss with some arguments replaced."""
    return lambda: g.policy_loss(**{**GOOD, **wrong})


POLICY_LOSS: list[Row] = [
    Row(T, ("objective: expected an Objective such as GSPO", "got str"), loss(objective="gspo")),
    Row(T, ("layout: expected a layout such as Padded(mask)", "got ndarray"), loss(layout=MASK)),
    Row(
        T,
        ("layout: Turn() needs a layout that knows its turns", "Turns(layout, turn_ids, num_turns)"),
        loss(objective=SEGMENT),
    ),
    Row(T, ("logp: expected an array", "got list"), loss(logp=[[0.0]])),
    Row(V, ("logp: expected the layout's shape [2, 3]", "got [2, 1]"), loss(logp=ZEROS[:, :1])),
    Row(T, ("old_logp: expected real floating-point log-probs", "got dtype int"), loss(old_logp=IDS)),
    Row(
        T,
        ("logp: expected float32 or float64", "got float16", "clip range of 3e-4", "allow_low_precision=True"),
        loss(logp=ZEROS.astype(np.float16)),
    ),
    Row(T, ("expected arrays of one library", "old_logp is torch"), loss(old_logp=torch.zeros(2, 3))),
    Row(V, ("old_logp: pass the old policy's log-probs", "on_policy=True", "got old_logp=None"), loss(old_logp=None)),
    Row(V, ("old_logp: ", "got old_logp=an array, on_policy=True"), loss(on_policy=True)),
    Row(T, ("advantage: expected an array", "got NoneType"), loss(advantage=None)),
    Row(T, ("advantage: expected an array without a mask", "got a MaskedArray"), loss(advantage=np.ma.masked_array(ONES))),
    Row(T, ("on_policy: expected True or False", "got array"), loss(on_policy=np.ones(3))),
    Row(T, ("allow_low_precision: expected True or False", "got 1"), loss(allow_low_precision=1)),
    Row(T, ("advantage: expected real numbers", "got dtype bool"), loss(advantage=ONES > 0)),
    Row(V, ("advantage: expected [2] (one per sequence) or [2, 3] (one per token)", "got [3]"), loss(advantage=np.ones(3))),
    Row(
        V,
        ("advantage: Sequence() has one ratio per sequence and needs [2]", "got one per token [2, 3]", "Use SequenceToken()"),
        loss(advantage=ZEROS),
    ),
    Row(
        V,
        ("advantage: PerToken expected the layout's shape [2, 3]", "got [2]"),
        loss(objective=GSPO_TOKEN, advantage=PerToken(ONES)),
    ),
    Row(
        V,
        ("advantage: expected [2] (one per sequence) or PerToken(values) (one per token)", "got [3]"),
        loss(
            objective=GSPO_TOKEN,
            logp=np.zeros(3),
            old_logp=np.zeros(3),
            advantage=np.ones(3),
            layout=Packed(np.array([0, 0, 1]), 2),
        ),
    ),
    Row(
        V,
        ("advantage: Turn() has one ratio per turn and needs [2, 4]", "or [2]", "got [2, 3]", "Use TurnToken()"),
        loss(objective=SEGMENT, advantage=ZEROS, layout=TURNS),
    ),
    Row(
        V,
        ("advantage: expected [2]", "got [2, 4]", "turn_advantages"),
        loss(objective=SEGMENT_TOKEN, advantage=np.ones((2, 4)), layout=TURNS),
    ),
    Row(T, ("denominator: expected a number, got '2' (str)",), loss(denominator="2")),
    Row(T, ("denominator: expected a number", "got True"), loss(denominator=True)),
    Row(V, ("denominator: expected a positive finite number", "got 0"), loss(denominator=0)),
    Row(V, ("denominator: expected a number or a [] array", "got shape [2]"), loss(denominator=ONES)),
    Row(V, ("denominator: expected a positive finite number", "got -2.0"), loss(denominator=np.asarray(-2.0))),
    Row(
        T,
        ("denominator: expected a real number", "got dtype torch.bool"),
        lambda: g.policy_loss(
            *(GSPO, torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2), Padded(torch.ones(2, 3) > 0)),
            denominator=torch.tensor(True),
        ),
    ),
]

ADVANTAGES: list[Row] = [
    Row(T, ("rewards: expected an array", "got str"), lambda: g.group_advantages("text", [0])),
    Row(T, ("rewards: expected a list of float64", "got str"), lambda: g.group_advantages(["a"], [0])),
    Row(V, ("rewards: expected a list of numbers", "ragged"), lambda: g.group_advantages([[1.0], [1.0, 2.0]], [0])),
    Row(T, ("group_ids: expected a list of int64", "got float64"), lambda: g.group_advantages([1.0, 2.0], [0.5, 0.5])),
    Row(T, ("valid: expected a list of bool", "got int64"), lambda: g.group_advantages([1.0, 2.0], [0, 0], valid=[2, 0])),
    Row(
        T,
        ("rewards: expected an array without a mask", "got a MaskedArray"),
        lambda: g.group_advantages(np.ma.masked_array(ONES, [0, 1]), IDS[:, 0]),
    ),
    Row(T, ("rewards: expected real numbers", "got dtype bool"), lambda: g.group_advantages(ONES > 0, IDS[:, 0])),
    Row(T, ("group_ids: expected integers", "got dtype float64"), lambda: g.group_advantages(ONES, ONES)),
    Row(V, ("rewards: expected shape [N]", "got [2, 3]"), lambda: g.group_advantages(ZEROS, IDS)),
    Row(V, ("group_ids: expected shape [2] as rewards", "got [3]"), lambda: g.group_advantages(ONES, IDS[0])),
    Row(T, ("valid: expected a boolean array", "isfinite(rewards)"), lambda: g.group_advantages(ONES, IDS[:, 0], valid=ONES)),
    Row(V, ("valid: expected shape [2] as rewards", "got [3]"), lambda: g.group_advantages(ONES, IDS[:, 0], valid=MASK[0])),
    Row(
        T,
        ("normaliser: expected a value, got the class ZScore", "write ZScore(...)"),
        lambda: g.group_advantages(ONES, IDS[:, 0], g.advantages.ZScore),
    ),
    Row(
        T,
        ("normaliser: expected a normaliser such as ZScore()", "got 'z'"),
        lambda: g.group_advantages(ONES, IDS[:, 0], "z"),
    ),
    Row(
        V,
        ("rewards: expected shape [K, N] or a sequence of [N]", "got [2]"),
        lambda: g.advantages.decoupled_advantages(ONES, [0, 0]),
    ),
    Row(
        V,
        ("rewards: expected at least one reward per response", "got none"),
        lambda: g.advantages.decoupled_advantages([], [0, 0]),
    ),
    Row(V, ("weights: expected 2 numbers", "got 1"), lambda: g.advantages.decoupled_advantages([ONES, ONES], IDS[:, 0], [1.0])),
    Row(
        V,
        ("weights: expected finite numbers", "nan"),
        lambda: g.advantages.decoupled_advantages([ONES], IDS[:, 0], [float("nan")]),
    ),
    Row(
        T,
        ("weights: expected a sequence of numbers", "got 1.0"),
        lambda: g.advantages.decoupled_advantages([ONES], IDS[:, 0], 1.0),
    ),
    Row(
        T,
        ("batch_scale: expected BatchStd() or None", "got ZScore"),
        lambda: g.advantages.decoupled_advantages([ONES], IDS[:, 0], batch_scale=g.advantages.ZScore()),
    ),
    Row(V, ("turn_rewards: expected shape [N, M], one number per turn", "got [2]"), lambda: g.advantages.reward_to_go(ONES)),
    Row(T, ("turn_rewards: expected real numbers", "got dtype bool"), lambda: g.advantages.reward_to_go(MASK)),
    Row(
        V,
        ("turn_values: expected one row for each of the layout's 2 sequences", "got [3, 4]"),
        lambda: g.advantages.turn_advantages(np.ones((3, 4)), IDS, LAYOUT),
    ),
    Row(T, ("turn_ids: expected integers", "float64"), lambda: g.advantages.turn_advantages(np.ones((2, 4)), ZEROS, LAYOUT)),
    Row(
        V,
        ("turn_ids: expected the layout's shape [2, 3]", "got [3]"),
        lambda: g.advantages.turn_advantages(np.ones((2, 4)), IDS[0], LAYOUT),
    ),
]


def kl(estimator: Any, reduction: Any = None, **options: Any) -> Callable[[], Any]:
    """A KL term."""
    given = SequenceMean() if reduction is None else reduction
    return lambda: g.kl_penalty(estimator, ZEROS, ZEROS, LAYOUT, reduction=given, **options)


def shift(old: Any = ROUTER, new: Any = ROUTER, floor: Any = 0.5) -> Callable[[], Any]:
    """A router shift."""
    return lambda: router_shift(old, new, LAYOUT, floor=floor)


TERMS: list[Row] = [
    Row(T, ("estimator: expected an estimator such as TokenKL() or K3()", "got 'k3'"), kl("k3")),
    Row(T, ("estimator: expected a value, got the class K3", "write K3(...)"), kl(g.kl.K3)),
    Row(T, ("reduction: expected a reduction such as SequenceMean()", "got 'mean'"), kl(g.kl.K3(), "mean")),
    Row(
        T,
        ("reduction: TokenMean() weighs tokens", "one estimate per sequence", "Use SequenceMean(), or TokenKL()"),
        kl(g.kl.SequenceKL(), g.TokenMean(), old_logp=ZEROS),
    ),
    Row(V, ("old_logp: TokenKL() corrects for the policy that sampled", "pass its log-probs"), kl(g.TokenKL())),
    Row(V, ("old_logp: K3() does not use it", "leave it out, or use TokenKL()"), kl(g.kl.K3(), old_logp=ZEROS)),
    Row(V, ("coefficient: expected a finite number", "got nan"), lambda: g.kl.KLTerm(g.kl.K3(), ZEROS, float("nan"))),
    Row(
        T,
        ("coefficient: expected a number or a [] array", "got [2] of torch.float32"),
        lambda: g.kl.KLTerm(g.kl.K3(), ZEROS, torch.ones(2)),
    ),
    Row(
        T,
        ("correction: expected a Correction such as TIS", "got str"),
        lambda: g.sampler_weight("tis", ZEROS, ZEROS, LAYOUT),
    ),
    Row(T, ("old_router_logp: expected real floating-point log scores", "got dtype bool"), shift(ROUTER > 0)),
    Row(
        V,
        ("router_logp: expected the layout's shape and [layers, experts per token]", "[2, 3, 'L', 'K']", "got [2, 3]"),
        shift(new=ZEROS),
    ),
    Row(V, ("router_logp: expected [2, 3, 1, 2] as old_router_logp", "got [2, 3, 1, 1]"), shift(new=ROUTER[..., :1])),
    Row(V, ("floor: expected a factor between 0 and 1", "got 1"), shift(floor=1)),
    Row(T, ("floor: expected a number", "got None"), shift(floor=None)),
]


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
    Row(T, ("lengths: expected real numbers", "got <U1"), lambda: clip_fraction_for(CLIP, LAW, "x")),
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
