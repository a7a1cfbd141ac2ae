"""A weight on the advantage is that weight on the clipped gain and on its gradient, exactly (theory C6)."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
from budgets import assert_same_bits, assert_within
from cases import CASES, Batch, Case, batches, core_loss
from hypothesis import assume, given
from hypothesis import strategies as st
from libraries import NUMPY, Library

from gspo_core import MIS, Objective, Padded, policy_loss, presets, sampler_weight


def some_weights(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """At least 0, a fifth of them exactly 0."""
    rng = np.random.default_rng(seed)
    return rng.random(shape) * 3 * (rng.random(shape) > 0.2)


@given(batch=batches(), seed=st.integers(0, 2**16))
def test_a_weight_per_sequence_multiplies_its_gain_and_its_gradient(
    library: Library, case: Case, batch: Batch, seed: int
) -> None:
    """Sequence by sequence, each judged alone over the batch's denominator, then added up with the weights."""
    assume(batch.distance_to_kinks(case) > 1e-9)
    weights, count = some_weights(seed, batch.advantage.shape), float(max(1, batch.mask.any(axis=1).sum()))
    weighted = np.where(batch.mask.any(axis=1), batch.clean().advantage * weights, np.nan)
    loss = core_loss(library, batch.with_clip(case.preset), batch, weighted)
    alone = [batch.rows([i]).judged(case, denominator=count) for i in range(len(weights))]
    value = math.fsum(w * v.value for w, v in zip(weights, alone, strict=True))
    grads = np.array([w * np.array(v.weight[0]) for w, v in zip(weights, alone, strict=True)])
    scale = math.fsum(w * v.scale for w, v in zip(weights, alone, strict=True))
    assert_within(loss.value, value, 1e-12 * scale)
    assert_within(loss.logp_grad, grads.reshape(batch.mask.shape), 1e-12 * np.abs(grads).reshape(batch.mask.shape))


@given(batch=batches(), seed=st.integers(0, 2**16))
def test_a_weight_per_token_multiplies_its_gain_and_its_gradient(
    library: Library, token_case: Case, batch: Batch, seed: int
) -> None:
    """GSPO-token and GRPO: the gains of the oracle, token by token, with the weights outside of min and clip."""
    assume(batch.distance_to_kinks(token_case) > 1e-9)
    weights = some_weights(seed, batch.mask.shape)
    verdict = batch.judged(token_case, batch.token_advantage)
    count = max(1, batch.mask.any(axis=1).sum())
    terms = [
        -weights[i, t]
        * oracle.clipped_gain(verdict.log_ratio[i][t], batch.token_advantage[i, t], batch.low, batch.high)
        / (batch.mask[i].sum() * count)
        for i, t in zip(*np.nonzero(batch.mask), strict=True)
    ]
    weighted = np.where(batch.mask, np.where(batch.mask, batch.token_advantage, 0.0) * weights, np.nan)
    loss = core_loss(library, batch.with_clip(token_case.preset), batch, weighted)
    grads = np.where(batch.mask, weights * np.reshape(verdict.weight, batch.mask.shape), 0.0)
    assert_within(loss.value, math.fsum(terms), 1e-12 * math.fsum(map(abs, terms)))
    assert_within(loss.logp_grad, grads, 1e-12 * np.abs(grads))


PRESETS = {name: value for name, value in vars(presets).items() if isinstance(value, Objective)}


@pytest.mark.parametrize("name", sorted(PRESETS))
@given(batch=batches(edges=False), seed=st.integers(0, 2**16))
def test_it_holds_for_every_preset_bit_by_bit(name: str, batch: Batch, seed: int) -> None:
    """Powers of two and 0 scale exactly; the denominator is the batch's in both."""
    objective, clean = PRESETS[name], batch.clean()
    for per_token in {False, objective.ratio.per_token}:
        advantage = clean.advantages(per_token)
        weights = np.random.default_rng(seed).choice([0.0, 0.5, 1.0, 4.0], size=advantage.shape)
        plain, weighted = (core_loss(NUMPY, objective, batch, a) for a in (advantage, advantage * weights))
        factor = weights if per_token else weights[:, None]
        # + 0 makes both zeros positive.
        assert_same_bits(weighted.logp_grad + 0.0, factor * plain.logp_grad + 0.0)


def test_it_neither_moves_the_clip_range_nor_is_clipped() -> None:
    """s = 1.5 beyond 1.2, A = 1, w = 1.8 (a sampler that gave 1/1.8 of the probability): gain 1.8 · 1.2, by hand."""
    old, mask = np.zeros((1, 1)), np.ones((1, 1), dtype=bool)
    w = sampler_weight(MIS, old, old - np.log(1.8), Padded(mask))
    batch = Batch(np.full((1, 1), np.log(1.5)), old, mask, np.ones(1), np.ones((1, 1)), 0.2, 0.2)
    for case in CASES:
        loss = core_loss(NUMPY, batch.with_clip(case.preset), batch, batch.advantage * w.weight)
        assert loss.value == pytest.approx(-1.8 * 1.2)
        assert not loss.logp_grad.any()


def test_the_weight_inside_the_clip_would_be_another_loss() -> None:
    """The mistake that separate arguments prevent: π/π_sampler in the place of π/π_old is clipped as a whole."""
    old, mask, advantage = np.zeros((1, 1)), np.ones((1, 1), dtype=bool), np.ones(1)
    sampler = old - np.log(1.8)
    w = sampler_weight(MIS, old, sampler, Padded(mask))
    right = policy_loss(CASES[0].preset, old, old, advantage * w.weight, Padded(mask))
    wrong = policy_loss(CASES[0].preset, old, sampler, advantage, Padded(mask))
    assert right.logp_grad[0, 0] == pytest.approx(-1.8)
    assert wrong.logp_grad[0, 0] == 0
