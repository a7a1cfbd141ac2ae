"""Anchors of the laws' oracle, not laws: what the papers' methods have in common, exactly, on any ragged batch.

The scalar loops of gspo_core/laws judge every loss; here they are held against each other, and no loss is under test.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.budgets import REL64, assert_close64, assert_within
from support.cases import Batch, batches
from support.family import Member, by_member, largest

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Objective, Sequence, SequenceMean, Token, TokenMean
from gspo_core.laws.kit.oracle import count, scalar_loss
from gspo_core.objectives import (
    DEEPSEEK_V3_2,
    GATE_ONLY_GSPO,
    GMPO,
    LUSPO,
    Band,
    FixedLength,
    GammaWeight,
    OffPolicyMask,
    Product,
    ProductToken,
    SoftGate,
    TokenClip,
    TruncatedWeight,
    Unclipped,
)


class Judged(NamedTuple):
    """A verdict of the laws' oracle as arrays."""

    value: float
    logp_grad: np.ndarray
    log_ratio: np.ndarray
    clipped: np.ndarray


def judged(objective: Objective, batch: Batch) -> Judged:
    """What the laws' oracle says of an objective, with one advantage per response."""
    wide = np.repeat(batch.advantage[:, None], batch.mask.shape[1], axis=1)
    rows = (batch.logp.tolist(), batch.old_logp.tolist(), wide.tolist(), batch.mask.tolist())
    found = scalar_loss(objective, *rows)
    weight = np.reshape(found.weight, batch.mask.shape)
    return Judged(found.value, weight, np.array(found.log_ratio, dtype=float), np.array(found.clipped, dtype=bool))


def assert_same(a: Judged, b: Judged, batch: Batch, times: float = 1.0) -> None:
    """Value and weight of a are `times` those of b, up to rounding of exp's argument."""
    budget = 10 * REL64 * (1 + largest(batch))
    scale = np.abs(b.logp_grad).sum() * times + abs(float(b.value)) * times
    assert_within(a.value, times * b.value, budget * (scale + 1e-300) * (1 + batch.mask.size))
    assert_within(a.logp_grad, times * b.logp_grad, budget * np.abs(times * b.logp_grad) + 1e-300)


def lengths(batch: Batch) -> np.ndarray:
    """[N] |y_i|."""
    return batch.mask.sum(axis=1)


@given(batch=batches(edges=False))
def test_gmpo_is_gspo_when_nothing_is_clipped(batch: Batch) -> None:
    never = 1e9
    a = judged(replace(GMPO, gate=TokenClip(never, never)), batch)
    b = judged(replace(GSPO, surrogate=Unclipped()), batch)
    assert_same(a, b, batch)
    assert (b.logp_grad != 0).any() or not (batch.mask.any() and batch.clean().advantage.any())


@given(batch=batches(edges=False))
def test_gspo_token_summed_over_tokens_is_luspo(batch: Batch) -> None:
    a = judged(replace(GSPO_TOKEN, surrogate=LUSPO.surrogate, reduction=FixedLength(1)), batch)
    assert_same(a, judged(LUSPO, batch), batch)


@given(batch=batches(edges=False))
def test_gspo_with_a_mean_over_tokens_is_luspo_up_to_the_mean_length(batch: Batch) -> None:
    assume(batch.mask.any())
    a = judged(replace(GSPO_TOKEN, surrogate=LUSPO.surrogate, reduction=TokenMean()), batch)
    assert_same(a, judged(LUSPO, batch), batch, (lengths(batch) > 0).sum() / lengths(batch).sum())


@given(batch=batches(edges=False))
def test_luspo_is_gspo_times_the_length(batch: Batch) -> None:
    a, b = judged(LUSPO, batch), judged(replace(GSPO, surrogate=LUSPO.surrogate), batch)
    assert_within(a.logp_grad, b.logp_grad * lengths(batch)[:, None], 4 * REL64 * np.abs(a.logp_grad))


@given(batch=batches(edges=False), low=st.sampled_from([3e-4, 0.02, 0.4]))
def test_gspos_gate_on_bad_responses_is_deepseeks_mask(batch: Batch, low: float) -> None:
    """δ = −log(1 − ε_low), the same statistic; both one sided, so good responses pass the mask."""
    gate = judged(GSPO.with_clip(low, 1e9), batch)
    mask = judged(replace(GSPO, surrogate=Unclipped(), gate=OffPolicyMask(-math.log1p(-low))), batch)
    assert (gate.clipped == mask.clipped).all()
    assert_within(mask.logp_grad, gate.logp_grad, 4 * REL64 * np.abs(gate.logp_grad))


def test_the_mask_of_the_preset_silences_all_tokens_of_a_stale_bad_response() -> None:
    d = np.array([[-0.6, -0.5], [-0.6, -0.5], [-0.4, -0.5]])
    advantage = np.array([-1.0, 1.0, -1.0])
    batch = Batch(d, np.zeros((3, 2)), np.ones((3, 2), dtype=bool), advantage, np.repeat(advantage[:, None], 2, 1), 0.2, 0.2)
    loss = judged(replace(DEEPSEEK_V3_2, surrogate=Unclipped()), batch)
    assert loss.clipped.tolist() == [[True, True], [False, False], [False, False]]
    assert_close64(loss.value, -(np.exp([-0.6, -0.5]).sum() - np.exp([-0.4, -0.5]).sum()) / 6)


@given(batch=batches(edges=False), width=st.sampled_from([4e-4, 0.05, 0.7]))
def test_a_band_in_proportion_to_the_length_is_gspos_clip(batch: Batch, width: float) -> None:
    """Length power 1; the clip whose bounds are e^±width."""
    clip = GSPO.with_clip(-math.expm1(-width), math.expm1(width))
    band = Objective(Sequence(), Unclipped(), SequenceMean(), Band(width, 1.0))
    a, b = judged(band, batch), judged(clip, batch)
    assume(np.abs(np.abs(b.log_ratio) - width).min(initial=1.0) > 1e-9)
    assert (a.clipped == b.clipped).all()
    assert_same(a, b, batch)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@given(batch=batches(edges=False), width=st.sampled_from([0.01, 0.3]))
def test_the_three_laws_of_clipping(power: float, batch: Batch, width: float) -> None:
    """D8: |S| ≤ c |y|^p; the value beyond is that of the bound."""
    objective = Objective(Product(), Unclipped(), SequenceMean(), Band(width, power))
    loss = judged(objective, batch)
    clean = batch.clean()
    total, bound = (clean.logp - clean.old_logp).sum(axis=1), width * np.maximum(lengths(batch), 1) ** power
    assume(np.abs(np.abs(total) - bound).min(initial=1.0) > 1e-9)
    beyond = (np.sign(clean.advantage) * total > bound) & (lengths(batch) > 0)
    assert (loss.clipped == beyond).all()
    assert_within(loss.log_ratio, np.where(beyond, np.sign(total) * bound, total), 10 * REL64 * (1 + largest(batch)))


@given(batch=batches(edges=False))
def test_product_and_its_token_form_have_one_weight(batch: Batch) -> None:
    """VESPO's weight does not need the token form; with equal advantages both say the same."""
    assume(batch.mask.any())
    by_token = judged(Objective(ProductToken(), GammaWeight(), TokenMean()), batch)
    by_sequence = judged(Objective(Product(), GammaWeight(), SequenceMean()), batch)
    tokens_per_response = lengths(batch).sum() / (lengths(batch) > 0).sum()
    budget = 4 * REL64 * np.abs(by_sequence.logp_grad) + 1e-290  # φ passes through the denormal numbers on its way to 0
    assert_within(by_token.logp_grad * tokens_per_response, by_sequence.logp_grad, budget)


@given(batch=batches(edges=False))
def test_dr_grpo_is_a_mean_over_tokens_with_another_denominator(batch: Batch) -> None:
    assume(batch.mask.any())
    a = judged(replace(GRPO, reduction=FixedLength(7)), batch)
    b = judged(replace(GRPO, reduction=TokenMean()), batch)
    assert count(replace(GRPO, reduction=FixedLength(7)), batch.mask.tolist()) == 7 * (lengths(batch) > 0).sum()
    assert_same(a, b, batch, lengths(batch).sum() / (7 * (lengths(batch) > 0).sum()))


# ---- on policy


@by_member
@given(batch=batches(edges=False))
def test_on_policy_all_are_reinforce(member: Member, batch: Batch) -> None:
    """C1: −A_i/(N |y_i|), or with the method's own denominator −A_i/Z."""
    assume(batch.mask.any())
    batch = replace(batch, logp=batch.old_logp)
    clean, size = batch.clean(), lengths(batch)
    n, safe = (size > 0).sum(), np.maximum(size, 1)
    reduction, product = member.objective.reduction, isinstance(member.objective.ratio, Product)
    if isinstance(reduction, FixedLength):
        share = np.full(len(size), 1.0 / (reduction.length * n))
    elif isinstance(reduction, TokenMean):
        share = np.full(len(size), 1.0 / size.sum())
    else:
        share = np.full(len(size), 1.0 / n) if product else 1.0 / (n * safe)
    expected = np.where(batch.mask, -(clean.advantage * share)[:, None], 0.0)
    loss = judged(member.objective, batch)
    assert_within(loss.logp_grad, expected, 4 * REL64 * np.abs(expected))
    assert not loss.clipped.any()
    per_response = (np.full(len(size), 1.0 / n) if product else share * size) * clean.advantage
    if isinstance(surrogate := member.objective.surrogate, SoftGate):
        per_response = per_response * 2 / np.where(clean.advantage > 0, surrogate.tau_pos, surrogate.tau_neg)
    assert_close64(loss.value, -per_response.sum(), np.abs(per_response).sum())


# ---- the gate alone


@given(batch=batches(edges=False))
def test_the_gate_without_the_weight_differs_by_at_most_the_band_inside_it(batch: Batch) -> None:
    """C5: by the factor s_i, so by 0.04 % where both bounds hold."""
    a, b = judged(GATE_ONLY_GSPO, batch), judged(GSPO, batch)
    assert (a.clipped == b.clipped).all()
    s = np.exp(b.log_ratio)
    assert_within(a.logp_grad * s[:, None], b.logp_grad, 10 * REL64 * (1 + largest(batch)) * np.abs(b.logp_grad))
    inside = (s >= 1 - 3e-4) & (s <= 1 + 4e-4)
    assert (np.abs(a.logp_grad - b.logp_grad) <= 4.01e-4 * np.abs(a.logp_grad))[inside].all()


# ---- soft gates


def test_phi_is_one_on_policy_largest_at_k_over_lambda_and_falls_to_zero() -> None:
    """E4, with the numbers of the paper's parameters."""
    for (k, lam), peak, advantage in (((2, 3), 1.208, 1.0), ((3, 2), 1.242, -1.0)):
        rho = np.concatenate([np.logspace(-6, 3, 4001), [k / lam, 1.0]])
        phi = GammaWeight()(np, np.log(rho), np.full(rho.shape, advantage)).slope * advantage
        assert_within(phi[-1], 1.0, REL64)
        assert phi[-2] == pytest.approx(peak, abs=5e-4)
        assert (phi <= phi[-2] + REL64).all()
        assert phi[0] < 1e-10
        assert phi[4000] < 1e-10


@given(log_ratio=st.floats(-30, 30), advantage=st.sampled_from([1.0, -1.0]))
def test_sapos_gain_and_weight_are_bounded(log_ratio: float, advantage: float) -> None:
    """E4: f in [0, 4/τ], slope 1 on policy, and w sech²(τ(w − 1)/2) below 4 max_w w e^(−τ(w−1)) < 5."""
    value, slope = SoftGate()(np, np.array([log_ratio]), np.array([advantage]))
    tau = 1.0 if advantage > 0 else 1.05
    assert 0.0 <= value[0] * advantage <= 4 / tau
    assert 0.0 <= slope[0] * advantage < 5.0
    assert SoftGate()(np, np.zeros(1), np.array([advantage])).slope[0] == advantage


@given(
    d=st.lists(st.floats(-3, 3), min_size=1, max_size=20),
    tau=st.sampled_from([0.5, 1.0, 1.05, 2.0]),
)
def test_the_mean_of_sapos_gates_is_the_gate_of_the_mean_up_to_the_variance(d: list, tau: float) -> None:
    """E4: |mean g(z) − g(mean z)| ≤ τ² Var(z)/4 for g(z) = sech²(τ z/2), here with z = w − 1."""
    w = np.exp(d)
    gate = SoftGate(tau, tau)(np, np.log(w), np.ones(len(w))).slope / w
    of_mean = SoftGate(tau, tau)(np, np.log([w.mean()]), np.ones(1)).slope[0] / w.mean()
    assert abs(gate.mean() - of_mean) <= tau**2 * w.var() / 4 + 1e-9


@given(batch=batches(edges=False))
def test_a_truncated_weight_without_a_cap_in_reach_is_the_unclipped_one(batch: Batch) -> None:
    a = judged(Objective(Token(), TruncatedWeight(1e30), TokenMean()), batch)
    b = judged(Objective(Token(), Unclipped(), TokenMean()), batch)
    assert_same(a, b, batch)
