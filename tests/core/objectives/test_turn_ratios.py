"""One ratio per turn of a dialogue: GSPO inside each turn, averaged over turns as the reduction says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, assume, find, given, settings
from hypothesis import strategies as st
from support.budgets import REL64, assert_close64, assert_same_bits, assert_within
from support.cases import Batch, batches
from support.inputs.dialogues import REDUCTIONS, Dialogues, dialogues, loss_of
from support.libraries import NUMPY, Library

from gspo_core import GSPO, Clip, Objective, Packed, Padded, SequenceMean, Turns, policy_loss
from gspo_core.advantages import turn_advantages
from gspo_core.objectives import (
    Band,
    FixedLength,
    OffPolicyMask,
    TokenClip,
    TotalVariation,
    Turn,
    TurnMean,
    TurnToken,
    Unclipped,
)

by_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def log_ratio_scale(batch: Batch) -> float:
    """What log ratios are rounded in proportion to."""
    d = np.abs(batch.clean().logp - batch.clean().old_logp)
    return float(max(np.max(d, initial=0.0), np.max(d.sum(axis=1), initial=0.0)))


@by_reduction
@given(dialogue=dialogues())
def test_every_turn_has_the_oracles_ratio_clip_and_weight(library: Library, reduction: str, dialogue: Dialogues) -> None:
    assume(dialogue.distance_to_kinks() > 1e-9)
    verdict = dialogue.judged(reduction, dialogue.spread_advantage)
    layout = dialogue.layout(library)
    loss = loss_of(library, dialogue.objective(reduction), dialogue.batch, dialogue.turn_advantage, layout)
    size = log_ratio_scale(dialogue.batch)
    assert_within(loss.value, verdict.value, REL64 * verdict.scale * (1 + size))
    expected = np.reshape(verdict.weight, dialogue.batch.mask.shape)
    assert_within(loss.logp_grad, expected, REL64 * np.abs(expected) * (1 + size))
    shape = (len(dialogue.batch.mask), dialogue.num_turns)
    assert_within(loss.log_ratio, np.reshape(verdict.log_ratio, shape), REL64 * size)
    assert loss.clipped.tolist() == np.reshape(verdict.clipped, shape).tolist()


@by_reduction
@given(dialogue=dialogues())
def test_every_token_may_have_its_own_advantage(library: Library, reduction: str, dialogue: Dialogues) -> None:
    """The token form, with advantages that differ inside a turn."""
    assume(dialogue.distance_to_kinks() > 1e-9)
    verdict = dialogue.judged(reduction, dialogue.batch.token_advantage)
    objective = dialogue.objective(reduction, token_form=True)
    loss = loss_of(library, objective, dialogue.batch, dialogue.batch.token_advantage, dialogue.layout(library))
    size = log_ratio_scale(dialogue.batch)
    assert_within(loss.value, verdict.value, REL64 * verdict.scale * (1 + size))
    expected = np.reshape(verdict.weight, dialogue.batch.mask.shape)
    assert_within(loss.logp_grad, expected, REL64 * np.abs(expected) * (1 + size))


@by_reduction
@given(dialogue=dialogues())
def test_both_forms_agree_under_the_same_reduction(library: Library, reduction: str, dialogue: Dialogues) -> None:
    """Equal advantages inside each turn: the same value and weights, clipped turns included."""
    layout = dialogue.layout(library)
    a = loss_of(library, dialogue.objective(reduction), dialogue.batch, dialogue.turn_advantage, layout)
    spread = turn_advantages(library.array(dialogue.turn_advantage), library.array(dialogue.ids), layout)
    assert_same_bits(library.numpy(spread), dialogue.spread_advantage)
    b = loss_of(library, dialogue.objective(reduction, True), dialogue.batch, dialogue.spread_advantage, layout)
    assert_close64(b.value, a.value, dialogue.judged(reduction, dialogue.spread_advantage).scale)
    assert_within(b.logp_grad, a.logp_grad, REL64 * np.abs(a.logp_grad))


def test_the_forms_differ_under_different_reductions() -> None:
    """The guard: a turn of one token beside one of three weighs a quarter or a half."""
    layout = Turns(Padded(np.ones((1, 4), dtype=bool)), np.array([[0, 1, 1, 1]]), 2)
    zeros, advantage = np.zeros((1, 4)), np.array([[1.0, -1.0]])
    weights = {
        name: policy_loss(Objective(Turn(), Clip(0.2, 0.2), reduction), zeros, zeros, advantage, layout).logp_grad.tolist()
        for name, reduction in REDUCTIONS.items()
    }
    assert weights["SequenceMean"] == [[-1 / 4, 1 / 4, 1 / 4, 1 / 4]]
    assert weights["TurnMean"] == [[-1 / 2, 1 / 6, 1 / 6, 1 / 6]]
    assert weights["FixedLength"] == [[-1 / 7, 1 / 7, 1 / 7, 1 / 7]]


@pytest.mark.parametrize("reduction", ["SequenceMean", "TurnMean"])
@given(batch=batches(), seed=st.integers(0, 9))
def test_one_turn_is_gspo(library: Library, reduction: str, batch: Batch, seed: int) -> None:
    """Bit by bit where sums are exact (log-probs in 2^-10), in the other draws to rounding."""
    exact = seed % 2 == 0
    if exact:
        clean = batch.clean()
        batch = replace(batch, logp=np.round(clean.logp, 0) / 1024, old_logp=np.round(clean.old_logp, 0) / 1024)
    ids = np.where(batch.mask, seed % 3, -5)
    mask = Padded(library.array(batch.mask))
    layout = Turns(mask, library.array(ids), 3) if seed % 3 else Turns(mask, library.array(np.zeros_like(ids)), 1)
    objective = GSPO.with_clip(batch.low, batch.high)
    whole = loss_of(library, objective, batch, batch.advantage, mask)
    loss = loss_of(library, replace(objective, ratio=Turn(), reduction=REDUCTIONS[reduction]), batch, batch.advantage, layout)
    turn = seed % 3
    assert loss.denominator == whole.denominator
    if exact:
        assert_same_bits(loss.value, whole.value)
        assert_same_bits(loss.logp_grad, whole.logp_grad)
        assert_same_bits(np.ascontiguousarray(loss.log_ratio[:, turn]), whole.log_ratio)
        assert loss.clipped[:, turn].tolist() == whole.clipped.tolist()
    elif not (np.abs(whole.log_ratio[:, None] - np.log1p([batch.high, -batch.low])[None, :]) < 1e-9).any():
        scale = np.abs(batch.clean().advantage) * np.exp(whole.log_ratio)
        assert_within(loss.value, whole.value, 1e-13 * scale.sum() * (1 + log_ratio_scale(batch)))
        assert_within(loss.logp_grad, whole.logp_grad, 1e-14 * np.abs(whole.logp_grad) * (1 + log_ratio_scale(batch)))


@given(dialogue=dialogues(strays=False))
def test_merged_turns_have_the_length_weighted_mean(library: Library, dialogue: Dialogues) -> None:
    """log s of two turns as one: (L1 μ1 + L2 μ2)/(L1 + L2); all merged, the sequence's."""
    assume(dialogue.num_turns > 1)
    b, ids = dialogue.batch, dialogue.ids
    apart = loss_of(library, dialogue.objective("TurnMean"), b, dialogue.batch.advantage, dialogue.layout(library))
    merged_ids = np.where(ids == 1, 0, ids)
    layout = Turns(Padded(library.array(b.mask)), library.array(merged_ids), dialogue.num_turns)
    merged = loss_of(library, dialogue.objective("TurnMean"), b, dialogue.batch.advantage, layout)
    lengths = np.stack([((ids == k) & dialogue.in_turn).sum(axis=1) for k in (0, 1)], axis=1)
    expected = (lengths * apart.log_ratio[:, :2]).sum(axis=1) / np.maximum(1, lengths.sum(axis=1))
    assert_within(merged.log_ratio[:, 0], expected, REL64 * log_ratio_scale(b))
    assert not merged.log_ratio[:, 1].any()
    assert_same_bits(merged.log_ratio[:, 2:].copy(), apart.log_ratio[:, 2:].copy())


@given(dialogue=dialogues(), poison=st.sampled_from([np.nan, np.inf, -1e30]))
def test_masked_slots_strays_and_empty_turns_are_inert(library: Library, dialogue: Dialogues, poison: float) -> None:
    """Whatever number or turn id stands there, no bit changes, and nothing is given to them."""
    b, dead = dialogue.batch, ~dialogue.in_turn
    rng = np.random.default_rng(1)
    stray = np.where(b.mask, -3, rng.integers(0, dialogue.num_turns, b.mask.shape))
    other = replace(
        dialogue,
        ids=np.where(dead, stray, dialogue.ids),
        batch=replace(b, logp=np.where(dead, poison, b.logp), old_logp=np.where(dead, -poison, b.old_logp)),
        turn_advantage=np.where(np.isnan(dialogue.turn_advantage), poison, dialogue.turn_advantage),
    )
    for reduction in REDUCTIONS:
        losses = [
            loss_of(library, x.objective(reduction), x.batch, x.turn_advantage, x.layout(library)) for x in (dialogue, other)
        ]
        for one, two in zip(losses[0][:-1], losses[1][:-1], strict=True):
            assert_same_bits(one, two)
        assert not losses[0].logp_grad[dead].any()
        assert not losses[0].log_ratio[np.isnan(dialogue.turn_advantage)].any()


@pytest.mark.slow
def test_the_draws_are_telling() -> None:
    """Some turns clipped and some not within one dialogue, an empty turn, and a token of no turn."""

    def telling(dialogue: Dialogues) -> bool:
        layout = dialogue.layout(NUMPY)
        loss = loss_of(NUMPY, dialogue.objective("TurnMean"), dialogue.batch, dialogue.turn_advantage, layout)
        there = ~np.isnan(dialogue.turn_advantage)
        mixed = (loss.clipped & there).any(axis=1) & (~loss.clipped & there & (loss.log_ratio != 0)).any(axis=1)
        return bool(mixed.any() and (~there).any() and (dialogue.batch.mask & ~dialogue.in_turn).any())

    find(dialogues(), telling, settings=settings(max_examples=3000, database=None, derandomize=True, phases=[Phase.generate]))


def test_an_anchor_by_hand() -> None:
    """Turn 0: s = e^0.1 > 1.04, clipped; a tool's slot; turn 1: s = e^-0.01, live. One dialogue, clip 0.03 and 0.04."""
    layout = Turns(Padded(np.array([[True, True, False, True]])), np.array([[0, 0, 0, 1]]), 2)
    logp, old = np.array([[0.15, 0.05, np.nan, -0.01]]), np.zeros((1, 4))
    s = 0.9900498337491681
    for reduction, first, second in ((TurnMean(), 1 / 2, 1 / 2), (SequenceMean(), 2 / 3, 1 / 3), (FixedLength(1), 2, 1)):
        loss = policy_loss(Objective(Turn(), Clip(0.03, 0.04), reduction), logp, old, np.array([[1.0, -2.0]]), layout)
        assert float(loss.value) == pytest.approx(-(first * 1.04 - second * 2 * s), rel=1e-14)
        assert loss.logp_grad[0].tolist() == pytest.approx([0, 0, 0, second * 2 * s], rel=1e-14)
        assert loss.clipped.tolist() == [[True, False]]


@by_reduction
@pytest.mark.parametrize("token_form", [False, True], ids=["Turn", "TurnToken"])
@given(dialogue=dialogues())
def test_the_weight_is_the_derivative_of_the_value(reduction: str, token_form: bool, dialogue: Dialogues) -> None:
    """By central differences; the token form's along directions that move whole turns (its ratio is held otherwise)."""
    b, layout = dialogue.batch, dialogue.layout(NUMPY)
    step = 1e-6
    assume(dialogue.distance_to_kinks() > 10 * step)
    objective = dialogue.objective(reduction, token_form)
    advantage = dialogue.spread_advantage if token_form else dialogue.turn_advantage
    rng = np.random.default_rng(2)
    direction = rng.uniform(-1, 1, b.mask.shape)
    if token_form:
        turn_step = rng.uniform(-1, 1, (len(b.mask), dialogue.num_turns))
        direction = np.take_along_axis(turn_step, np.where(dialogue.in_turn, dialogue.ids, 0), axis=1)

    def value(shift: float) -> float:
        return float(loss_of(NUMPY, objective, replace(b, logp=b.logp + shift * direction), advantage, layout).value)

    slope = (value(step) - value(-step)) / (2 * step)
    weight = loss_of(NUMPY, objective, b, advantage, layout).logp_grad
    # step²/6 times the third derivative, which is at most the weight's size per turn, and rounding of the value / step.
    scale = dialogue.judged(reduction, dialogue.spread_advantage).scale
    assert_within(slope, float(np.sum(weight * direction)), 1e-9 * scale + 1e-11 * np.abs(weight).sum() + 1e-15)


GATES: list[Any] = [TokenClip(0.1, 0.2), Band(0.05, 0.5), OffPolicyMask(0.1), TotalVariation(0.02, 0.03)]


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: type(gate).__name__)
@given(dialogue=dialogues())
def test_a_gate_sees_turns(gate: Any, dialogue: Dialogues) -> None:
    """Turn-level objective behind a gate = the sequence-level one on turns as sequences, each over its share."""
    layout = dialogue.layout(NUMPY)
    objective = Objective(Turn(), Unclipped(), TurnMean(), gate)
    loss = loss_of(NUMPY, objective, dialogue.batch, dialogue.turn_advantage, layout)
    there = ~np.isnan(dialogue.turn_advantage)
    share = np.where(there, dialogue.turn_advantage, 0.0) / np.maximum(1, there.sum(axis=1, keepdims=True))
    single = replace(objective, ratio=GSPO.ratio, reduction=SequenceMean())
    arrays = (dialogue.batch.logp, dialogue.batch.old_logp, share.reshape(-1))
    each = policy_loss(single, *arrays, layout.turns.each, denominator=float(loss.denominator))
    assert_close64(loss.value, each.value, float(np.abs(share).sum()) * np.exp(log_ratio_scale(dialogue.batch)))
    assert_within(loss.logp_grad, each.logp_grad, REL64 * np.abs(each.logp_grad))
    assert_same_bits(loss.log_ratio.reshape(-1), each.log_ratio)
    assert loss.clipped.reshape(-1).tolist() == each.clipped.tolist()
    if not isinstance(gate, TotalVariation):  # in the token form it takes tokens away, here their log ratios alone
        token_form = replace(objective, ratio=TurnToken())
        tokens = loss_of(NUMPY, token_form, dialogue.batch, dialogue.spread_advantage, layout)
        assert_within(tokens.logp_grad, loss.logp_grad, REL64 * np.abs(loss.logp_grad))


def test_turns_as_sequences_weigh_equally_over_the_batch(library: Library) -> None:
    """`turns.each` is the packed layout that somebody would write by hand."""
    layout = Turns(Padded(library.array(np.ones((2, 3)) > 0)), library.array(np.array([[0, 0, 1], [0, 0, 0]])), 2).turns.each
    zeros = library.array(np.zeros((2, 3)))
    loss = policy_loss(GSPO, zeros, zeros, library.array(np.array([1.0, 1.0, 1.0, 9.0])), layout)
    assert_close64(library.numpy(loss.logp_grad), [[-1 / 6, -1 / 6, -1 / 3], [-1 / 9, -1 / 9, -1 / 9]])
    by_hand = Packed(library.array(np.array([0, 0, 1, 2, 2, 2])), 4)
    flat = library.array(np.zeros(6))
    other = policy_loss(GSPO, flat, flat, library.array(np.array([1.0, 1.0, 1.0, 9.0])), by_hand)
    assert_same_bits(library.numpy(loss.logp_grad).reshape(-1), library.numpy(other.logp_grad))


def test_no_dialogue_at_all_is_a_loss_of_zero(library: Library) -> None:
    for shape in ((0, 3), (2, 0)):
        layout = Turns(Padded(library.array(np.zeros(shape, bool))), library.array(np.zeros(shape, int)), 2)
        zeros, advantage = library.array(np.zeros(shape)), library.array(np.ones((shape[0], 2)))
        loss = policy_loss(Objective(Turn(), Clip(0.2, 0.2), TurnMean()), zeros, zeros, advantage, layout)
        assert float(library.numpy(loss.value)) == 0.0
        assert tuple(loss.log_ratio.shape) == (shape[0], 2)
