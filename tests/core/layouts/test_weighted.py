"""A sequence of weight w counts as w copies of it: in the loss, its gradient, denominators and the loss's metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.budgets import assert_close64
from support.cases import Batch, batches
from support.family import MEMBERS, Member, by_member, largest
from support.libraries import JAX, Library, on_every_library
from support.ranks import on_all_ranks

from gspo_core import (
    GRPO,
    GSPO,
    GSPO_TOKEN,
    Loss,
    Objective,
    Packed,
    Padded,
    SequenceMean,
    TokenKL,
    Turns,
    batch_metrics,
    kl_penalty,
    merge,
    plan,
    policy_loss,
    sharded,
    summary,
)
from gspo_core.kl import K3, SequenceK2
from gspo_core.layouts import Layout, Restricted, Weighted
from gspo_core.metrics import left_out_metrics
from gspo_core.objectives import DAPO, FixedLength, TurnMean, TurnToken

COPIES = st.lists(st.integers(0, 3), min_size=8, max_size=8)


def copied(copies: np.ndarray) -> np.ndarray:
    """[M] row numbers: each row as often as its weight says."""
    return np.repeat(np.arange(len(copies)), copies)


def spread_out(loss: Loss, copies: np.ndarray) -> Loss:
    """The loss of a weighted batch as that of the batch with copies: a row's weight is shared equally by its copies."""
    rows = copied(copies)
    gradient = loss.logp_grad[rows] / copies[rows][:, None]
    return Loss(loss.value, gradient, loss.log_ratio[rows], loss.clipped[rows], loss.denominator, loss.on_policy)


@by_member
@given(batch=batches(edges=False, max_tokens=5), copies=COPIES, per_token=st.booleans())
def test_the_loss_is_that_of_copies_by_the_oracle(member: Member, batch: Batch, copies: list[int], per_token: bool) -> None:
    many = np.array(copies[: len(batch.mask)])
    rows, advantage = copied(many), member.advantage(batch, per_token)
    repeated = batch.rows(rows)
    assume(len(rows) and largest(batch) < 49)
    assume(member.is_clear_of_kinks(repeated, advantage[rows], max(1e-9, 2 * member.rounding(batch, 2.3e-16))))
    layout = Weighted(Padded(batch.mask), many)
    loss = policy_loss(member.objective, batch.logp, batch.old_logp, advantage, layout)
    member.assert_judged(spread_out(loss, many), repeated, advantage[rows])
    assert float(loss.denominator) == max(1, int(member.objective.count(Padded(repeated.mask))))
    assert not loss.logp_grad[many == 0].any()


@given(batch=batches(max_tokens=5), seed=st.integers(0, 2**16), member=st.sampled_from(MEMBERS))
def test_weights_are_relative_and_add_up(batch: Batch, seed: int, member: Member) -> None:
    """Four times the weights is the same loss; D · loss is linear in them. With copies, these make all rational weights."""
    rng = np.random.default_rng(seed)
    u, v = rng.uniform(0.1, 2.0, (2, len(batch.mask)))
    assume(largest(batch) < 49)

    def scaled(weights: np.ndarray) -> tuple[float, np.ndarray, float]:
        layout = Weighted(Padded(batch.mask), weights)
        loss = policy_loss(member.objective, batch.logp, batch.old_logp, member.advantage(batch, False), layout)
        count = float(member.objective.count(layout))
        return float(loss.value) * count, loss.logp_grad * count, count

    (a, ga, na), (b, gb, nb), (c, gc, nc), (d, gd, nd) = (scaled(w) for w in (u, v, u + v, 4 * u))
    assert_close64(d / 4, a, scale=abs(a))
    assert_close64(gd / 4, ga, scale=np.abs(ga).max(initial=0.0))
    assert nd == 4 * na
    assert_close64(gc, ga + gb, scale=np.abs(ga).max(initial=0.0) + np.abs(gb).max(initial=0.0))
    scale = float(np.abs(ga).sum() + np.abs(gb).sum()) + abs(a) + abs(b)
    assert_close64(c, a + b, scale=scale)
    assert_close64(nc, na + nb, scale=nc)


def test_an_anchor() -> None:
    """Weights ½ and 3, |y| = 2 and 1, on policy: D = 3.5, −A w/(|y| D) = −0.5/7 and 3/3.5."""
    layout = Weighted(Padded(np.array([[True, True], [True, False]])), np.array([0.5, 3.0]))
    zeros = np.zeros((2, 2))
    loss = policy_loss(GSPO, zeros, None, np.array([1.0, -1.0]), layout, on_policy=True)
    assert float(loss.value) == pytest.approx((3.0 - 0.5) / 3.5, rel=1e-15)
    assert loss.logp_grad.tolist() == [pytest.approx([-0.5 / 7] * 2, rel=1e-15), pytest.approx([3 / 3.5, 0.0], rel=1e-15)]
    assert float(DAPO.count(layout)) == 4.0
    assert float(replace(GRPO, reduction=FixedLength(10)).count(layout)) == 35.0


@on_every_library
@pytest.mark.parametrize("length", [10, 2**24 + 1, 2**33, 2**62])
def test_a_fixed_length_of_any_size_is_counted(library: Library, length: int) -> None:
    """Beyond 2³¹ an int32 would wrap or be refused; the weighted count is the plain one, weighted."""
    objective = replace(GRPO, reduction=FixedLength(length))
    layout = Padded(library.array(np.array([[True], [False], [True]])))
    weighted = Weighted(layout, library.array(np.array([0.5, 7.0, 2.0])))
    assert float(library.numpy(objective.count(weighted))) == pytest.approx(2.5 * length, rel=1e-6)
    assert float(library.numpy(objective.count(layout))) == pytest.approx(2.0 * length, rel=1e-6)


MASK = np.array([[1, 1, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
MANY = np.array([2, 0, 1, 3])
ROWS = copied(MANY)
RNG = np.random.default_rng(5)
LOGP, OLD, ADVANTAGE = -RNG.exponential(size=(4, 4)), -RNG.exponential(size=(4, 4)), np.array([1.0, np.nan, 2.0, -0.5])
LOGP[1] = np.nan  # the row of weight 0 is not looked at


@pytest.mark.parametrize("objective", [GSPO, GSPO_TOKEN, GRPO, DAPO], ids=["GSPO", "GSPO_TOKEN", "GRPO", "DAPO"])
def test_in_every_library_and_layout(library: Library, objective: Objective) -> None:
    expected = policy_loss(objective, LOGP[ROWS], OLD[ROWS], ADVANTAGE[ROWS], Padded(MASK[ROWS]))
    owner = np.where(MASK, np.arange(4)[:, None], -1)
    logp, old, advantage, weights, mask, ids = (library.array(x) for x in (LOGP, OLD, ADVANTAGE, MANY, MASK, owner.reshape(-1)))
    padded = policy_loss(objective, logp, old, advantage, Weighted(Padded(mask), weights))
    flat = (library.array(x.reshape(-1)) for x in (LOGP, OLD))
    packed = policy_loss(objective, *flat, advantage, Weighted(Packed(ids, 4), weights))
    for loss in (padded, packed):
        gradient = library.numpy(loss.logp_grad).reshape(4, 4)[ROWS] / MANY[ROWS][:, None]
        assert_close64(library.numpy(loss.value), expected.value, scale=1.0)
        assert_close64(gradient, expected.logp_grad, scale=1.0)


def shards(total: Any, part: slice, weighted_inside: bool) -> Layout:
    """One rank's columns of the weighted batch."""
    whole = Padded(MASK[:, part])
    return sharded(Weighted(whole, MANY), total) if weighted_inside else Weighted(sharded(whole, total), MANY)


@pytest.mark.parametrize("with_turns", [False, True])
@pytest.mark.parametrize("weighted_inside", [False, True])
def test_on_shards_inside_and_outside_also_with_turns(weighted_inside: bool, with_turns: bool) -> None:
    ids = np.broadcast_to(np.arange(4) % 2, (4, 4))
    objective = Objective(TurnToken(), GSPO.surrogate, TurnMean()) if with_turns else GSPO_TOKEN
    whole: Layout = Weighted(Padded(MASK), MANY)
    expected = policy_loss(objective, LOGP, OLD, ADVANTAGE, Turns(whole, ids, 2) if with_turns else whole)

    def one_rank(part: slice) -> Any:
        def run(total: Any) -> Loss:
            layout = shards(total, part, weighted_inside)
            layout = Turns(layout, ids[:, part], 2) if with_turns else layout
            return policy_loss(objective, LOGP[:, part], OLD[:, part], ADVANTAGE, layout)

        return run

    losses, _ = on_all_ranks([one_rank(slice(0, 1)), one_rank(slice(1, 4))])
    assert_close64(np.concatenate([loss.logp_grad for loss in losses], axis=1), expected.logp_grad, scale=1.0)
    assert [float(loss.value) for loss in losses] == pytest.approx([float(expected.value)] * 2, rel=1e-14)
    assert np.abs(expected.logp_grad).max() > 0


def test_turns_are_copied_with_their_sequence() -> None:
    ids = np.array([[0, 1, 1, -1], [0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
    objective = Objective(TurnToken(), GSPO.surrogate, TurnMean())
    expected = policy_loss(objective, LOGP[ROWS], OLD[ROWS], ADVANTAGE[ROWS], Turns(Padded(MASK[ROWS]), ids[ROWS], 2))
    for layout in (Weighted(Turns(Padded(MASK), ids, 2), MANY), Turns(Weighted(Padded(MASK), MANY), ids, 2)):
        loss = policy_loss(objective, LOGP, OLD, ADVANTAGE, layout)
        assert_close64(spread_out(loss, MANY).logp_grad, expected.logp_grad, scale=1.0)
        assert float(loss.value) == pytest.approx(float(expected.value), rel=1e-14)


def test_weights_of_weights_are_multiplied_and_tokens_left_out_of_both() -> None:
    twice = Weighted(Weighted(Padded(MASK), np.array([2.0, 1.0, 1.0, 1.5])), np.array([1.0, 0.0, 1.0, 2.0]))
    assert twice.row_weights.tolist() == [2.0, 0.0, 1.0, 3.0]
    kept = np.arange(4) < 2
    narrow = Restricted(twice, np.broadcast_to(kept, (4, 4)))
    assert narrow.lengths().tolist() == [2, 0, 0, 2]
    assert float(DAPO.count(narrow)) == 2 * 2 + 3 * 2


@pytest.mark.parametrize("estimator", [TokenKL(), SequenceK2(), K3()], ids=repr)
def test_a_kl_term_is_weighted(estimator: Any) -> None:
    ref = OLD - 0.3
    old = {"old_logp": OLD} if estimator.off_policy else {}
    layout = Weighted(Padded(MASK), MANY)
    found = kl_penalty(estimator, LOGP, ref, layout, reduction=SequenceMean(), **old)
    again = {name: x[ROWS] for name, x in old.items()}
    expected = kl_penalty(estimator, LOGP[ROWS], ref[ROWS], Padded(MASK[ROWS]), reduction=SequenceMean(), **again)
    assert float(found.value) == pytest.approx(float(expected.value), rel=1e-14)
    assert_close64(found.logp_grad[ROWS] / MANY[ROWS][:, None], expected.logp_grad, scale=1.0)


NAMES = ("loss", "gradient", "updates")


@pytest.mark.parametrize("objective", [GSPO, DAPO], ids=["GSPO", "DAPO"])
def test_metrics_know_the_weights_and_count_each_response_once(objective: Objective) -> None:
    layout, few = Weighted(Padded(MASK), MANY), [0, 2, 3]
    batch = (LOGP, OLD, ADVANTAGE)
    found = summary(batch_metrics(objective, policy_loss(objective, *batch, layout), *batch, layout))
    repeated = (*(x[ROWS] for x in batch), Padded(MASK[ROWS]))
    expected = summary(batch_metrics(objective, policy_loss(objective, *repeated), *repeated))
    assert [found[name] for name in NAMES] == pytest.approx([expected[name] for name in NAMES], rel=1e-13)
    assert "loss_trained" not in found
    single = (*(x[few] for x in batch), Padded(MASK[few]))
    once = summary(batch_metrics(objective, policy_loss(objective, *single), *single))
    assert all(found[name] == once[name] for name in ("sequences", "tokens", "length_mean", "log_s_mean", "clip_active"))


def test_metrics_of_parts_are_those_of_the_whole() -> None:
    """Divided by the weights of all; and a response left out for want of an advantage keeps its part of the denominator."""
    advantage = np.array([1.0, 2.0, 3.0, -0.5])
    logp, weights = np.nan_to_num(LOGP), np.array([0.3, 2.0, 5.0, 1.7])
    total = GSPO.count(Weighted(Padded(MASK), weights))
    parts = []
    for rows in ([0, 1], [2, 3]):
        batch = (logp[rows], OLD[rows], advantage[rows], Weighted(Padded(MASK[rows]), weights[rows]))
        parts.append(batch_metrics(GSPO, policy_loss(GSPO, *batch, denominator=total), *batch))
    whole = (logp, OLD, advantage, Weighted(Padded(MASK), weights))
    expected = summary(batch_metrics(GSPO, policy_loss(GSPO, *whole), *whole))
    found = summary(merge(*parts))
    assert [found[name] for name in NAMES] == pytest.approx([expected[name] for name in NAMES], rel=1e-13)
    still = np.array([0.0, 2.0, 3.0, -0.5])
    ran = [1, 2, 3]
    batch = (logp[ran], OLD[ran], still[ran], Weighted(Padded(MASK[ran]), weights[ran]))
    run = batch_metrics(GSPO, policy_loss(GSPO, *batch, denominator=total), *batch)
    left = left_out_metrics(GSPO, still, Weighted(Padded(MASK), weights))
    whole = (logp, OLD, still, Weighted(Padded(MASK), weights))
    expected = summary(batch_metrics(GSPO, policy_loss(GSPO, *whole), *whole))
    found = summary(merge(run, left))
    assert [found[name] for name in NAMES] == pytest.approx([expected[name] for name in NAMES], rel=1e-13)


def test_a_plan_leaves_out_what_weighs_nothing_and_divides_by_the_weights() -> None:
    weights = np.array([0.5, 0.0, 1.0, 2.0])
    planned = plan([1.0, 0.0, 0.7, 0.7], [5, 5, 9, 9], loss_has_other_terms=True)
    step = planned.step(GSPO, Weighted(Padded(np.ones((4, 2), dtype=bool)), weights))
    assert step.rows.tolist() == [0, 2, 3]
    assert float(step.denominator) == 3.5
    assert float(plan([1.0], [0]).step(GSPO, Weighted(Padded(np.ones((1, 1), dtype=bool)), np.zeros(1))).denominator) == 1.0


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_a_traced_weight_that_is_none_makes_the_loss_nan(wrong: float) -> None:
    """Where its number can be read it is refused; tests/support/errors has the sentence."""

    def value(weights: Any) -> Any:
        old, advantage, mask = (JAX.array(x) for x in (OLD, np.ones(4), MASK))
        return policy_loss(GSPO, old, old, advantage, Weighted(Padded(mask), weights)).value

    fine = np.array([1.0, 0.5, 1.0, 1.0])
    assert np.isfinite(JAX.numpy(jax.jit(value)(fine)))
    assert np.isnan(JAX.numpy(jax.jit(value)(np.where(fine == 0.5, wrong, fine))))
