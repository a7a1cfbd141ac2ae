"""docs/new-backend.md holds: a backend of a few lines has the core's value, and gradients that finite differences confirm."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest
from support import toy_backend
from support.repository import ROOT
from support.toy_backend import Var

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Objective, Padded, PerToken
from gspo_core import policy_loss as core_policy_loss

PAGE = (ROOT / "docs" / "new-backend.md").read_text(encoding="utf-8")
RNG = np.random.default_rng(0)
HIDDEN, HEAD, TOKENS = RNG.normal(size=(12, 4)), RNG.normal(size=(4, 7)), RNG.integers(0, 7, size=12)
MASK = np.array([[True, True, True, False], [True, True, False, False], [False, False, False, False]])
ADVANTAGE = np.array([1.0, -0.5, 2.0])


def logp_of(hidden: Var, head: Var) -> Var:
    """[3, 4] log-probs of the tokens."""
    flat = (hidden @ head).log_softmax().take(TOKENS)
    return Var(flat.data.reshape(3, 4), ((flat, lambda g: g.reshape(-1)),))


OLD = logp_of(Var(HIDDEN), Var(HEAD)).data + RNG.normal(size=(3, 1)) * 1e-4 + RNG.normal(size=(3, 4)) * 1e-4


def loss_of(objective: Objective, hidden: Var, head: Var, advantage: Any = ADVANTAGE) -> Any:
    """The toy backend's loss through a linear layer and a softmax."""
    return toy_backend.policy_loss(objective, logp_of(hidden, head), OLD, advantage, Padded(MASK))


@pytest.mark.parametrize("objective", [GSPO, GRPO], ids=["GSPO", "GRPO"])
def test_the_gradient_through_a_model_is_that_of_finite_differences(objective: Objective) -> None:
    hidden, head = Var(HIDDEN), Var(HEAD)
    loss = loss_of(objective.with_clip(0.2, 0.2), hidden, head)
    loss.value.backward()
    assert np.abs(head.grad).max() > 1e-3, "nothing was learned"
    for at in [(0, 0), (2, 3), (3, 6)]:
        ends = []
        for step in (1e-6, -1e-6):
            moved = HEAD.copy()
            moved[at] += step
            ends.append(float(loss_of(objective.with_clip(0.2, 0.2), Var(HIDDEN), Var(moved)).value.data))
        assert head.grad[at] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("objective", [GSPO, GSPO_TOKEN, GRPO], ids=["GSPO", "GSPO_TOKEN", "GRPO"])
def test_value_and_weight_are_the_cores(objective: Objective) -> None:
    logp = logp_of(Var(HIDDEN), Var(HEAD))
    loss = toy_backend.policy_loss(objective, logp, OLD, ADVANTAGE, Padded(MASK))
    loss.value.backward(2.0)
    right = core_policy_loss(objective, logp.data, OLD, ADVANTAGE, Padded(MASK))
    assert loss.value.data == right.value
    assert np.array_equal(logp.grad, 2.0 * right.logp_grad)
    assert (logp.grad[~MASK] == 0).all()


def test_constants_get_no_gradient() -> None:
    hidden, head, advantage, old = Var(HIDDEN), Var(HEAD), Var(np.ones((3, 4))), Var(OLD)
    loss = toy_backend.policy_loss(GSPO_TOKEN, logp_of(hidden, head), old, PerToken(advantage), Padded(MASK))
    loss.value.backward()
    assert not advantage.grad.any()
    assert not old.grad.any()


def test_the_page_shows_the_code_of_the_toy_backend() -> None:
    """Line by line, annotations apart."""
    (shown,) = re.findall(r"```python\n(def policy_loss.*?)```", PAGE, flags=re.DOTALL)
    source = inspect.getsource(toy_backend.policy_loss)
    body = [line for line in shown.splitlines()[1:] if line.strip()]
    assert len(body) == 3
    assert all(line in source.splitlines() for line in body)
    assert len(inspect.getsource(toy_backend).splitlines()) < 60


def test_the_page_names_files_that_are_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", PAGE)
    assert len(named) == 2
    assert all((ROOT / name).is_file() for name in named)
