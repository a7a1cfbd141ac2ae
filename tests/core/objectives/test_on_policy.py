"""`old_logp=None` is the same loss as equal old log-probs: a contract of `policy_loss`; REINFORCE is the kit's law."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from support.budgets import assert_same_bits
from support.cases import Batch, Case, batches, core_loss
from support.libraries import Library

from gspo_core import Loss, Padded, policy_loss


def without_old(library: Library, case: Case, batch: Batch, dtype: type = np.float64) -> Loss:
    """The loss with old_logp=None, as NumPy arrays."""
    logp, advantage = library.array(batch.logp.astype(dtype)), library.array(batch.advantage.astype(dtype))
    loss = policy_loss(batch.with_clip(case.preset), logp, None, advantage, Padded(library.array(batch.mask)), on_policy=True)
    return Loss(*(library.numpy(x) for x in loss[:-1]), loss.on_policy)


@given(batch=batches())
def test_no_old_log_probs_are_equal_ones_to_the_bit(library: Library, case: Case, batch: Batch) -> None:
    explicit = core_loss(library, batch.with_clip(case.preset), replace(batch, old_logp=batch.logp))
    for a, b in zip(explicit[:-1], without_old(library, case, batch)[:-1], strict=True):
        assert_same_bits(a, b)
    assert explicit.logp_grad.any() or not batch.clean().advantage[batch.mask.any(axis=1)].any()


def test_the_flag_is_reported(library: Library, case: Case) -> None:
    batch = Batch(np.zeros((1, 1)), np.zeros((1, 1)), np.ones((1, 1), dtype=bool), np.ones(1), np.ones((1, 1)), 0.2, 0.2)
    assert without_old(library, case, batch).on_policy is True
    assert core_loss(library, case.preset, batch).on_policy is False


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_padding_is_inert_without_old_log_probs(library: Library, case: Case, poison: float) -> None:
    mask = np.array([[True, False], [False, False]])
    batch = Batch(np.zeros((2, 2)), np.zeros((2, 2)), mask, np.ones(2), np.ones((2, 2)), 0.2, 0.2)
    for a, b in zip(
        without_old(library, case, batch)[:-1], without_old(library, case, batch.poisoned(poison))[:-1], strict=True
    ):
        assert_same_bits(a, b)


def test_a_centred_group_has_zero_loss_and_a_gradient(library: Library, case: Case) -> None:
    batch = Batch(
        np.zeros((2, 2)), np.zeros((2, 2)), np.ones((2, 2), dtype=bool), np.array([1.0, -1.0]), np.ones((2, 2)), 0.2, 0.2
    )
    loss = without_old(library, case, batch)
    assert loss.value == 0
    assert loss.logp_grad.tolist() == [[-0.25, -0.25], [0.25, 0.25]]


def test_float32_stays_float32(library: Library, case: Case) -> None:
    batch = Batch(np.zeros((1, 1)), np.zeros((1, 1)), np.ones((1, 1), dtype=bool), np.ones(1), np.ones((1, 1)), 0.2, 0.2)
    loss = without_old(library, case, batch, np.float32)
    assert {x.dtype for x in (loss.value, loss.logp_grad, loss.log_ratio, loss.denominator)} == {np.dtype(np.float32)}
