"""Wrong calls of the core's functions, one row per error: arrays, shapes, dtypes, combinations, options without effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from support.errors.places import Row
from support.errors.rows import IDS, LAYOUT, MASK, ONES, ROUTER, TURNS, ZEROS, T, V

import gspo_core as g
from gspo_core import GSPO, GSPO_TOKEN, Clip, Objective, Packed, Padded, PerToken, SequenceMean, selection
from gspo_core.clip_range import Drift
from gspo_core.objectives import TurnMean
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
    Row(
        T,
        ("old_logp: expected an array of one library with logp (numpy.ndarray)", "got torch.Tensor"),
        loss(old_logp=torch.zeros(2, 3)),
    ),
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


def future(layout: Any = LAYOUT, **options: Any) -> Callable[[], Any]:
    """FIPO's advantages."""
    return lambda: selection.future_kl_advantages(ZEROS, ZEROS, ONES, layout, **options)


def baselines(**wrong: Any) -> Callable[[], Any]:
    """Optimal token baselines."""
    good = {"rewards": ONES, "group_ids": IDS[:, 0], "logp": ZEROS, "sum_pi_squared": ZEROS + 1, "layout": LAYOUT}
    return lambda: g.advantages.optimal_token_advantages(**{**good, **wrong})


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
    Row(T, ("lengths: expected integers or real numbers", "bool"), lambda: g.advantages.LengthWeighted(MASK[0])),
    Row(
        V,
        ("lengths: expected shape [2] as rewards", "got [3]"),
        lambda: g.group_advantages(ONES, IDS[:, 0], g.advantages.LengthWeighted(IDS[0])),
    ),
    Row(
        T,
        ("advantage: expected real numbers", "complex128"),
        lambda: selection.kept_advantages(ONES + 0j, MASK, LAYOUT),
    ),
    Row(T, ("kept: expected a boolean array", "write kept > 0"), lambda: selection.kept_advantages(ONES, ZEROS, LAYOUT)),
    Row(
        V,
        ("kept: expected the layout's shape [2, 3]", "got [3]"),
        lambda: selection.kept_advantages(ONES, MASK[0], LAYOUT),
    ),
    Row(T, ("values: expected real floating-point numbers", "int64"), lambda: selection.top_share(IDS, LAYOUT, 0.5)),
    Row(V, ("values: expected the layout's shape [2, 3]", "got [3]"), lambda: selection.top_share(ZEROS[0], LAYOUT, 0.5)),
    Row(V, ("share: expected a share in (0, 1]", "got 0"), lambda: selection.top_share(ZEROS, LAYOUT, 0)),
    Row(
        V,
        ("threshold: expected a positive finite number", "got -1.0"),
        lambda: selection.within_second_moment(ZEROS, ZEROS, LAYOUT, -1.0),
    ),
    Row(V, ("half_life: expected a positive finite number of tokens", "got 0"), future(half_life=0)),
    Row(V, ("low, high: expected factors with 0 < low ≤ 1 ≤ high", "got 1.0 and 0.5"), future(high=0.5)),
    Row(V, ("safety: expected a positive ratio", "got nan"), future(safety=float("nan"))),
    Row(T, ("layout: expected one that holds whole responses", "over ranks"), future(g.sharded(LAYOUT, lambda x: x))),
    Row(V, ("rewards: expected [2], one per sequence", "got [3]"), baselines(rewards=np.ones(3), group_ids=IDS[0])),
    Row(T, ("sum_pi_squared: expected real floating-point numbers", "int64"), baselines(sum_pi_squared=IDS)),
    Row(V, ("sum_pi_squared: expected the layout's shape [2, 3]", "got [3]"), baselines(sum_pi_squared=ZEROS[0])),
    Row(
        T,
        ("region: expected a region such as TotalVariation(0.2, 0.2)", "got 0.2"),
        lambda: selection.inside_region(0.2, ZEROS, ZEROS, ONES, LAYOUT),
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
    Row(T, ("estimator: expected one without a cap", "got Capped"), lambda: g.kl.Capped(g.kl.Capped(g.kl.K3(), 2.0), 1.0)),
    Row(T, ("cap: expected a number, got None",), lambda: g.kl.Capped(g.kl.K3(), None)),
    Row(V, ("cap: expected a positive finite number", "got 0"), lambda: g.kl.Capped(g.kl.K3(), 0)),
    Row(T, ("reduction: expected a reduction such as SequenceMean()", "got 'mean'"), kl(g.kl.K3(), "mean")),
    Row(
        T,
        ("reduction: TokenMean() weighs tokens", "one estimate per sequence", "Use SequenceMean(), or TokenKL()"),
        kl(g.kl.SequenceKL(), g.TokenMean(), old_logp=ZEROS),
    ),
    Row(V, ("old_logp: TokenKL() corrects for the policy that sampled", "pass its log-probs"), kl(g.TokenKL())),
    Row(V, ("old_logp: K3() does not use it", "leave it out, or use TokenKL()"), kl(g.kl.K3(), old_logp=ZEROS)),
    Row(T, ("ref_logp: expected an array", "got NoneType"), lambda: g.kl.KLTerm(g.kl.K3(), None, 0.1)),
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
