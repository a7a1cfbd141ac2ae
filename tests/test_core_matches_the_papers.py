"""Value, weight, log ratio and clip decision are the papers', on every library, for any ragged batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from budgets import REL64, assert_close64, assert_within, float32_budget
from cases import Batch, Case, batches, core_loss
from hypothesis import assume, given
from libraries import Library

from gspo_core import Loss, TokenMean
from gspo_core.laws.oracle import Verdict


def assert_agrees(loss: Loss, verdict: Verdict, largest_log_ratio: float) -> None:
    """Float64 agreement, each quantity in units of its own size."""
    assert_close64(loss.value, verdict.value, verdict.scale)
    assert_within(loss.logp_grad, verdict.weight, REL64 * np.abs(verdict.weight))
    assert_within(loss.log_ratio, verdict.log_ratio, REL64 * largest_log_ratio)
    assert loss.clipped.tolist() == verdict.clipped


def largest_log_ratio(batch: Batch) -> float:
    """max |logp − old_logp| over tokens."""
    return float(np.max(np.abs(batch.clean().logp - batch.clean().old_logp), initial=0.0))


@given(batch=batches())
def test_a_loss_with_sequence_advantages_is_the_papers(library: Library, case: Case, batch: Batch) -> None:
    assume(batch.distance_to_kinks(case) > 1e-9)
    loss = core_loss(library, batch.with_clip(case.preset), batch)
    assert loss.value.dtype == np.float64
    assert_agrees(loss, batch.judged(case), largest_log_ratio(batch))


@given(batch=batches())
def test_a_loss_with_token_advantages_is_the_papers(library: Library, token_case: Case, batch: Batch) -> None:
    case = token_case
    assume(batch.distance_to_kinks(case) > 1e-9)
    loss = core_loss(library, batch.with_clip(case.preset), batch, batch.token_advantage)
    assert_agrees(loss, batch.judged(case, batch.token_advantage), largest_log_ratio(batch))


@given(batch=batches())
def test_a_mean_over_tokens_is_the_papers(library: Library, token_case: Case, batch: Batch) -> None:
    case = replace(token_case, preset=replace(token_case.preset, reduction=TokenMean()))
    assume(batch.distance_to_kinks(case) > 1e-9)
    loss = core_loss(library, batch.with_clip(case.preset), batch, batch.token_advantage)
    verdict = batch.judged(case, batch.token_advantage, over_tokens=True)
    assert_agrees(loss, verdict, largest_log_ratio(batch))


@given(batch=batches(edges=False))
def test_float32_stays_within_its_budget(library: Library, case: Case, batch: Batch) -> None:
    batch = batch.rounded(np.float32)
    largest = largest_log_ratio(batch)
    budget = float32_budget(batch.mask.size, largest)
    # Closer to a bound than the log ratio's own error, float32 may decide either way.
    eps = float(np.finfo(np.float32).eps)
    assume(batch.distance_to_kinks(case) > eps * (batch.mask.shape[1] + 1) * (largest + 1e-3))
    loss, verdict = core_loss(library, batch.with_clip(case.preset), batch, dtype=np.float32), batch.judged(case)
    assert loss.value.dtype == loss.logp_grad.dtype == np.float32
    assert_within(loss.value, verdict.value, budget * verdict.scale)
    assert_within(loss.logp_grad, verdict.weight, budget * np.abs(verdict.weight))
    assert_within(loss.log_ratio, verdict.log_ratio, eps * (batch.mask.shape[1] + 1) * largest)
    assert loss.clipped.tolist() == verdict.clipped
