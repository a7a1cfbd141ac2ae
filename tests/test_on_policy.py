"""On policy every objective is REINFORCE: weight −A/(N L), value −mean A, nothing clipped (zero loss is no bug)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from budgets import assert_close64, assert_same_bits, assert_within
from cases import Batch, Case, batches, core_loss
from hypothesis import given
from libraries import NUMPY, Library

from gspo_core import GRPO, Clip, Loss, Padded, TokenMean, policy_loss


def reinforce(batch: Batch) -> tuple[float, float, np.ndarray]:
    """(−mean A, mean |A|, −A/(N L)) in a loop."""
    rows = [i for i in range(len(batch.mask)) if batch.mask[i].any()]
    n = max(1, len(rows))
    weight = np.zeros(batch.mask.shape)
    for i in rows:
        weight[i, batch.mask[i]] = -batch.advantage[i] / batch.mask[i].sum() / n
    return -sum(batch.advantage[i] for i in rows) / n, sum(abs(batch.advantage[i]) for i in rows) / n, weight


def without_old(library: Library, case: Case, batch: Batch, dtype: type = np.float64) -> Loss:
    """The loss with old_logp=None, as NumPy arrays."""
    logp, advantage = library.array(batch.logp.astype(dtype)), library.array(batch.advantage.astype(dtype))
    loss = policy_loss(batch.with_clip(case.preset), logp, None, advantage, Padded(library.array(batch.mask)), on_policy=True)
    return Loss(*(library.numpy(x) for x in loss[:-1]), loss.on_policy)


@given(batch=batches())
def test_every_preset_is_reinforce(library: Library, case: Case, batch: Batch) -> None:
    same = replace(batch, old_logp=batch.logp)
    value, scale, weight = reinforce(batch)
    explicit, implicit = core_loss(library, batch.with_clip(case.preset), same), without_old(library, case, batch)
    for loss in (explicit, implicit):
        assert_close64(loss.value, value, scale)
        assert_within(loss.logp_grad, weight, 1e-12 * np.abs(weight))
        assert not loss.clipped.any()
        assert not loss.log_ratio.any()
    for a, b in zip(explicit[:-1], implicit[:-1], strict=True):
        assert_same_bits(a, b)


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


def test_a_mean_over_tokens_gives_every_token_one_share() -> None:
    mask = np.array([[True, False, False], [True, True, True]])
    batch = Batch(np.zeros((2, 3)), np.zeros((2, 3)), mask, np.array([1.0, -2.0]), np.ones((2, 3)), 0.2, 0.2)
    loss = core_loss(NUMPY, replace(GRPO, reduction=TokenMean(), surrogate=Clip(0.0, 0.0)), batch)
    assert_close64(loss.logp_grad, [[-0.25, 0, 0], [0.5, 0.5, 0.5]])
    assert_close64(loss.value, (-1 + 6) / 4)
