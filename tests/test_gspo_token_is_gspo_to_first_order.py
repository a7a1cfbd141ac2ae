"""With one advantage per sequence GSPO-token is GSPO (paper, section 4.3) under a mean over sequences, and not otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from budgets import REL64, assert_close64, assert_within
from cases import CASES, Batch, batches, core_loss
from hypothesis import assume, given
from libraries import NUMPY, Library

import gspo_core
from gspo_core import GSPO, GSPO_TOKEN, Clip, TokenMean


@given(batch=batches())
def test_value_weight_and_clipping_agree_for_uniform_advantages(library: Library, batch: Batch) -> None:
    by_sequence = core_loss(library, batch.with_clip(GSPO), batch)
    tokens = np.repeat(batch.advantage[:, None], batch.mask.shape[1], axis=1)
    for advantage in (batch.advantage, tokens):
        by_token = core_loss(library, batch.with_clip(GSPO_TOKEN), batch, advantage)
        assert_close64(by_token.value, by_sequence.value, batch.judged(CASES[0]).scale)
        assert_within(by_token.logp_grad, by_sequence.logp_grad, REL64 * np.abs(by_sequence.logp_grad))
        assert (by_token.clipped == (by_sequence.clipped[:, None] & batch.mask)).all()
        assert (by_token.log_ratio == np.where(batch.mask, by_sequence.log_ratio[:, None], 0.0)).all()


@given(batch=batches())
def test_a_mean_over_tokens_is_gspo_with_length_weights(library: Library, batch: Batch) -> None:
    """B2: Σ_t/Σ_j L_j = GSPO with sequence i weighing L_i / mean L. Equal only for equal lengths."""
    assume(batch.mask.any())
    lengths = batch.mask.sum(axis=1)
    share = lengths / lengths[lengths > 0].mean()
    # The gain is positively homogeneous in the advantage (C6), so that a sequence's weight can go there.
    weighted = replace(batch, advantage=np.where(lengths > 0, batch.advantage, 0.0) * share)
    over_tokens = core_loss(library, replace(batch.with_clip(GSPO_TOKEN), reduction=TokenMean()), batch)
    by_sequence = core_loss(library, batch.with_clip(GSPO), weighted)
    assert_close64(over_tokens.value, by_sequence.value, weighted.judged(CASES[0]).scale)
    assert_within(over_tokens.logp_grad, by_sequence.logp_grad, REL64 * np.abs(by_sequence.logp_grad))


def test_a_mean_over_tokens_differs_from_gspo_for_unequal_lengths() -> None:
    mask = np.array([[True, False, False], [True, True, True]])
    batch = Batch(np.zeros((2, 3)), np.zeros((2, 3)), mask, np.array([1.0, 0.5]), np.ones((2, 3)), 0.2, 0.2)
    over_tokens = core_loss(NUMPY, replace(GSPO_TOKEN, reduction=TokenMean()), batch)
    assert_close64(over_tokens.value, -(1.0 + 3 * 0.5) / 4)
    assert_close64(core_loss(NUMPY, GSPO, batch).value, -(1.0 + 0.5) / 2)


def test_tokens_of_both_signs_have_complementary_gates_outside_the_band(library: Library) -> None:
    """B5: s = e^0.5 clips the positive token only, s = e^-0.5 the negative one only; hand-computed weights."""
    logp, advantage = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([[2.0, -2.0], [2.0, -2.0]])
    batch = Batch(logp, np.zeros((2, 2)), np.ones((2, 2), dtype=bool), np.ones(2), advantage, 0.2, 0.2)
    loss = core_loss(library, replace(GSPO_TOKEN, surrogate=Clip(0.2, 0.2)), batch, advantage)
    assert loss.clipped.tolist() == [[True, False], [False, True]]
    up, down = np.exp(0.5), np.exp(-0.5)
    assert_close64(loss.logp_grad, [[0.0, up / 2], [-down / 2, 0.0]])
    assert_close64(loss.value, -(2 * 1.2 - 2 * up + 2 * down - 2 * 0.8) / 4)


@given(batch=batches(edges=False))
def test_the_unclipped_value_knows_only_the_mean_token_advantage(library: Library, batch: Batch) -> None:
    """B5: value = −(1/N) Σ s_i mean_t A_it, while the weight knows each A_it."""
    assume(batch.mask.any())
    small = replace(batch, logp=batch.old_logp + np.clip(batch.logp - batch.old_logp, -0.01, 0.01))
    wide = replace(GSPO_TOKEN, surrogate=Clip(0.9, 5.0))
    lengths = np.maximum(1, batch.mask.sum(axis=1))
    mean = np.where(batch.mask, batch.token_advantage, 0.0).sum(axis=1) / lengths
    by_token = core_loss(library, wide, small, batch.token_advantage)
    by_mean = core_loss(library, wide, small, mean)
    scale = np.abs(np.where(batch.mask, batch.token_advantage, 0.0)).sum() / lengths.min()
    assert_close64(by_token.value, by_mean.value, scale)


def test_the_public_presets_differ_only_in_their_ratio() -> None:
    assert replace(GSPO, ratio=gspo_core.SequenceToken()) == GSPO_TOKEN
