"""One wrong argument in a valid call of the everyday functions is refused by its name, never by an error from inside."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from support.wrong_arguments import WRONG, named_first, refusal

import gspo_core as g

MASK = np.array([[True, True, True], [True, True, False]])
ZEROS, ONES, IDS = np.zeros((2, 3)), np.array([1.0, -1.0]), np.array([0, 0])
LAYOUT = g.Padded(MASK)
LOSS = g.policy_loss(g.GSPO, ZEROS, ZEROS, ONES, LAYOUT)
BATCH = g.batch_metrics(g.GSPO, LOSS, ZEROS, ZEROS, ONES, LAYOUT)
PILOT = g.Pilot(np.array([1e-4, -2e-4]), np.array([3, 2]), ONES)
OF_LOSS: dict[str, Any] = {"objective": g.GSPO, "logp": ZEROS, "old_logp": ZEROS, "advantage": ONES, "layout": LAYOUT}

CALLS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (g.policy_loss, {**OF_LOSS, "denominator": None, "on_policy": False, "allow_low_precision": False}),
    (g.batch_metrics, {**OF_LOSS, "loss": LOSS, "allow_low_precision": False}),
    (
        g.kl_penalty,
        {
            "estimator": g.TokenKL(),
            "logp": ZEROS,
            "ref_logp": ZEROS,
            "layout": LAYOUT,
            "reduction": g.TokenMean(),
            "old_logp": ZEROS,
            "denominator": None,
            "allow_low_precision": False,
        },
    ),
    (
        g.sampler_weight,
        {"correction": g.TIS, "old_logp": ZEROS, "sampler_logp": ZEROS, "layout": LAYOUT, "allow_low_precision": False},
    ),
    (g.group_advantages, {"rewards": ONES, "group_ids": IDS, "normaliser": g.advantages.ZScore(), "valid": None}),
    (
        g.plan,
        {
            "rewards": ONES,
            "group_ids": IDS,
            "normaliser": g.advantages.ZScore(),
            "valid": None,
            "loss_has_other_terms": False,
        },
    ),
    (g.group_metrics, {"advantage": ONES, "group_ids": IDS}),
    (g.summary, {"metrics": BATCH}),
    (g.diagnose, {"metrics": BATCH, "objective": g.GSPO, "thresholds": g.metrics.Thresholds()}),
    (g.clip_range_for, {"target": 0.15, "law": PILOT, "high_over_low": 4 / 3}),
    (g.Clip, {"low": 0.2, "high": 0.2}),
    (
        g.Objective,
        {"ratio": g.Sequence(), "surrogate": g.Clip(0.2, 0.2), "reduction": g.SequenceMean(), "gate": None},
    ),
    (g.Padded, {"mask": MASK}),
    (g.Packed, {"segment_ids": IDS, "num_sequences": 1}),
    (g.Pilot, {"log_s": ONES, "lengths": np.array([3, 2]), "advantage": ONES}),
    (g.Turns, {"layout": LAYOUT, "turn_ids": np.zeros((2, 3), dtype=int), "num_turns": 1}),
    (g.sharded, {"layout": LAYOUT, "sum_over_shards": lambda x: x}),
]
CASES = [(call, good, name) for call, good in CALLS for name in good]


@pytest.mark.parametrize(("call", "good"), CALLS, ids=[call.__name__ for call, _ in CALLS])
def test_the_calls_are_valid_and_leave_no_argument_out(call: Callable[..., Any], good: dict[str, Any]) -> None:
    assert refusal(lambda: call(**good)) is None
    assert set(inspect.signature(call).parameters) - set(good) <= {"lengths", "advantage"}


@pytest.mark.parametrize(("call", "good", "name"), CASES, ids=[f"{call.__name__}-{name}" for call, _, name in CASES])
def test_a_wrong_argument_is_refused_by_a_name(call: Callable[..., Any], good: dict[str, Any], name: str) -> None:
    raised = {kind: refusal(partial(call, **{**good, name: wrong})) for kind, wrong in WRONG.items()}
    assert {kind: repr(error) for kind, error in raised.items() if not named_first(error, set(good))} == {}


def test_what_a_per_token_advantage_holds_is_refused_as_the_advantage() -> None:
    good = {**OF_LOSS, "objective": g.GSPO_TOKEN}
    raised = {
        kind: refusal(partial(g.policy_loss, **{**good, "advantage": g.PerToken(wrong)})) for kind, wrong in WRONG.items()
    }
    assert {kind: repr(error) for kind, error in raised.items() if not named_first(error, {"advantage"})} == {}


@pytest.mark.parametrize(
    "error", [None, IndexError("logp: 3"), ValueError("operands could not be broadcast"), KeyError("logp")]
)
def test_an_accepted_argument_and_an_error_from_inside_are_no_refusals(error: Exception | None) -> None:
    assert not named_first(error, {"logp"})
