"""Anchors of the laws' oracle, not laws: its weights are what autograd makes of the papers' formulas as printed.

That a loss's weight is the derivative of its value, and that it is the oracle's, are laws of the kit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import assume, given
from support.budgets import assert_close64, assert_within
from support.cases import CASES, Batch, Case, batches
from support.differences import STEP, differences
from support.oracles import loss as oracle
from support.oracles.paper_in_torch import FORMULAS, gspo_token_without_sg


def budget(batch: Batch, case: Case, advantage: np.ndarray) -> float:
    """Rounding of the value over the step (1e-14 of its size / 6e-5) plus rounding of the arguments and h⁴/30."""
    return 1e-9 * batch.judged(case, advantage).scale + 1e-300


def clear_of_kinks(batch: Batch, case: Case) -> None:
    """No unit within two steps of a bound (a sequence's mean moves by at most a token's step)."""
    assume(batch.mask.any())
    assume(batch.distance_to_kinks(case, hits=True) > 2.5 * STEP)


@given(batch=batches(edges=False, max_tokens=5))
def test_gspo_token_weight_is_the_central_difference_with_s_frozen(batch: Batch) -> None:
    case = CASES[1]
    clear_of_kinks(batch, case)
    old, advantage, mask = batch.old_logp.tolist(), batch.token_advantage.tolist(), batch.mask.tolist()

    def value(logp: np.ndarray) -> float:
        rows = (logp.tolist(), batch.logp.tolist(), old, advantage, mask)
        return oracle.frozen_gspo_token(*rows, batch.low, batch.high)

    expected = differences(value, batch.logp, batch.mask)
    weight = np.reshape(batch.judged(case, batch.token_advantage).weight, batch.mask.shape)
    assert_within(weight, expected, budget(batch, case, batch.token_advantage))


def autograd(formula: Callable[..., torch.Tensor], batch: Batch, advantage: np.ndarray) -> tuple[float, np.ndarray]:
    """(value, gradient) of a formula in torch."""
    logp, old, advantage_, mask = (torch.tensor(x) for x in (batch.logp, batch.old_logp, advantage, batch.mask))
    logp.requires_grad_()
    value = formula(logp, old, advantage_, mask, batch.low, batch.high)
    (gradient,) = torch.autograd.grad(value, logp)
    return value.item(), gradient.numpy()


@given(batch=batches(edges=False))
def test_weight_is_what_autograd_makes_of_the_formula(case: Case, batch: Batch) -> None:
    batch = batch.clean()
    clear_of_kinks(batch, case)
    advantage = batch.advantages(case.per_token)
    value, gradient = autograd(FORMULAS[case.name], batch, advantage)
    verdict = batch.judged(case, advantage)
    assert_close64(verdict.value, value, verdict.scale)
    assert_within(verdict.weight, gradient, 1e-12 * np.abs(gradient))


@given(batch=batches(edges=False))
def test_without_the_stop_gradient_the_weight_would_be_doubled(batch: Batch) -> None:
    """B3: uniform advantages; the comparison above therefore sees a forgotten stop-gradient."""
    batch = batch.clean()
    clear_of_kinks(batch, CASES[1])
    weight = np.reshape(batch.judged(CASES[1]).weight, batch.mask.shape)
    _, mutant = autograd(gspo_token_without_sg, batch, batch.advantage)
    assert_within(mutant, 2 * weight, 1e-12 * np.abs(mutant))
    assume((weight != 0).any())
    assert (mutant != weight).any()
