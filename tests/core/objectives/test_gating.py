"""What a gate is given, the log-probs among it if it asks; and a gate that closes smoothly, with its derivative as `open`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import gspo_torch
import numpy as np
import pytest
import torch
from hypothesis import given
from support.cases import Batch, batches, core_loss
from support.libraries import NUMPY

from gspo_core import GRPO, GSPO, Packed, Padded, laws, policy_loss
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


# ---- a gate that closes smoothly


@dataclass(frozen=True)
class Soft:
    """Log ratios are bent: c atan(d/c), whose derivative is 1/(1 + (d/c)²), and no number at all beyond `end`."""

    c: float = 0.5
    end: float = 3.0

    def __call__(self, d: Any, advantage: Any, layout: Any, per_token: bool) -> Gated:
        xp, x = layout.xp, d / self.c
        inside = layout.valid & (xp.abs(d) <= self.end)
        return Gated(xp.where(inside, self.c * xp.atan(x), 0.0), advantage, xp.where(inside, 1.0 / (1.0 + x * x), 0.0))


SOFT = [replace(GSPO, surrogate=Unclipped(), gate=Soft()), replace(GRPO, surrogate=Unclipped(), gate=Soft())]
by_ratio = pytest.mark.parametrize("objective", SOFT, ids=["sequences", "tokens"])


@by_ratio
@given(batch=batches(edges=False, max_tokens=5))
def test_value_and_weight_are_those_of_bent_log_ratios(objective: Any, batch: Batch) -> None:
    """Each response by itself: the chain rule written out, token by token."""
    loss = core_loss(NUMPY, objective, batch)
    n, weight, values = max(1, int(batch.mask.any(axis=1).sum())), np.zeros(batch.mask.shape), []
    for i, row in enumerate(batch.mask):
        where, a = np.flatnonzero(row), batch.advantage[i]
        d = [float(batch.logp[i, t] - batch.old_logp[i, t]) for t in where]
        bent = [0.5 * math.atan(x / 0.5) if abs(x) <= 3.0 else 0.0 for x in d]
        slope = [1 / (1 + (x / 0.5) ** 2) if abs(x) <= 3.0 else 0.0 for x in d]
        if objective is SOFT[0] and len(where):
            s = math.exp(math.fsum(bent) / len(where))
            values.append(-a * s / n)
            weight[i, where] = [-a * s * y / len(where) / n for y in slope]
            assert bool(loss.clipped[i]) == (a != 0 and not any(slope))
        elif len(where):
            values += [-a * math.exp(x) / len(where) / n for x in bent]
            weight[i, where] = [-a * math.exp(x) * y / len(where) / n for x, y in zip(bent, slope, strict=True)]
            assert loss.clipped[i, where].tolist() == [a != 0 and y == 0 for y in slope]
    np.testing.assert_allclose(loss.logp_grad, weight, rtol=1e-11, atol=1e-15)
    assert math.isclose(float(loss.value), math.fsum(values), rel_tol=1e-11, abs_tol=1e-12 * math.fsum(map(abs, values)))


@by_ratio
def test_first_and_second_derivatives_in_pytorch_are_those_of_the_value(objective: Any) -> None:
    mask = torch.tensor(MASK)
    logp = torch.tensor(np.where(MASK, LOGP, 0.0), requires_grad=True)
    old = torch.tensor(np.where(MASK, OLD, 0.0))

    def value(x: Any) -> Any:
        return gspo_torch.policy_loss(objective, x, old, torch.tensor([1.0, -2.0], dtype=torch.float64), Padded(mask)).value

    assert torch.autograd.gradcheck(value, (logp,))
    assert torch.autograd.gradgradcheck(value, (logp,))


@pytest.mark.slow
def test_the_kit_checks_a_soft_gate_by_its_own_code() -> None:
    report = laws.check(SOFT[0], like=SOFT[0], examples=4)
    assert not report.broken, str(report)
    assert any("Soft is the intended gate" in sentence for sentence in report.unchecked)
