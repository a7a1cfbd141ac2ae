"""A gate that sees log-probs is given both, 0 in masked slots; one that does not is called as it always was."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from gspo_core import GRPO, GSPO, Packed, Padded, policy_loss
from gspo_core.backend import weight_as_function
from gspo_core.layouts import Turns
from gspo_core.objectives import Gated, Turn, TurnMean, Unclipped

MASK = np.array([[True, True, False], [True, False, False]])
LOGP = np.where(MASK, [[-0.1, -0.2, 0.0], [-0.3, 0.0, 0.0]], np.nan)
OLD = np.where(MASK, [[-0.4, -0.2, 0.0], [-0.1, 0.0, 0.0]], np.inf)


@dataclass(frozen=True)
class Seen:
    """Keeps what it was called with."""

    calls: list[dict[str, Any]] = field(default_factory=list, hash=False)

    def __call__(self, d: Any, advantage: Any, layout: Any, per_token: bool, **more: Any) -> Gated:
        self.calls.append(more)
        return Gated(d, advantage, layout.valid)


@dataclass(frozen=True)
class SeenWithLogProbs(Seen):
    sees_log_probs: ClassVar[bool] = True


@pytest.mark.parametrize("objective", [GSPO, GRPO], ids=["sequences", "tokens"])
@pytest.mark.parametrize("packed", [False, True])
def test_both_log_probs_are_given_without_what_stands_in_masked_slots(objective: Any, packed: bool) -> None:
    layout = Packed(np.array([0, 0, -1, 1, -1, -1]), 2) if packed else Padded(MASK)
    gate = SeenWithLogProbs()
    arrays = [x.reshape(layout.shape) for x in (LOGP, OLD)]
    policy_loss(replace(objective, gate=gate), *arrays, np.ones(2), layout)
    for name, x in zip(("logp", "old_logp"), arrays, strict=True):
        assert np.array_equal(gate.calls[0][name], np.where(MASK.reshape(layout.shape), x, 0.0))


def test_on_policy_both_are_the_current_ones() -> None:
    gate = SeenWithLogProbs()
    policy_loss(replace(GRPO, gate=gate), LOGP, None, np.ones(2), Padded(MASK), on_policy=True)
    assert np.array_equal(gate.calls[0]["logp"], np.where(MASK, LOGP, 0.0))
    assert np.array_equal(gate.calls[0]["old_logp"], gate.calls[0]["logp"])


def test_turns_are_given_the_slots_of_the_whole_batch() -> None:
    gate, layout = SeenWithLogProbs(), Turns(Padded(MASK), np.array([[0, 1, 1], [0, 0, 0]]), 2)
    policy_loss(replace(GSPO, ratio=Turn(), reduction=TurnMean(), gate=gate), LOGP, OLD, np.ones(2), layout)
    assert gate.calls[0]["logp"].shape == MASK.shape


def test_a_gate_that_does_not_ask_is_given_nothing_more() -> None:
    gate = Seen()
    policy_loss(replace(GRPO, gate=gate), LOGP, OLD, np.ones(2), Padded(MASK))
    assert gate.calls == [{}]


def test_the_weight_as_a_function_asks_the_gate_with_the_same_numbers() -> None:
    gate, layout = SeenWithLogProbs(), Padded(MASK)
    objective = replace(GRPO, surrogate=Unclipped(), gate=gate)
    loss = policy_loss(objective, LOGP, OLD, np.ones(2), layout)
    now = {"weight": loss.logp_grad, "denominator": loss.denominator, "hold_constant": np.copy}
    again = weight_as_function(objective, LOGP, OLD, np.ones(2), layout, **now)
    assert np.array_equal(again, loss.logp_grad)
    first, second = gate.calls
    assert all(np.array_equal(first[name], second[name]) for name in ("logp", "old_logp"))
