"""Responses that a plan leaves out count in every share, and nobody claims to know their log s."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core.metrics.test_batch import judged
from hypothesis import assume, given
from hypothesis import strategies as st
from support.budgets import REL64
from support.cases import Batch, batches
from support.family import MEMBERS, largest
from support.inputs.metric_cases import assert_numbers, measured, pack
from support.libraries import Library
from support.ranks import Ranks

from gspo_core import GSPO, Packed, Padded, batch_metrics, diagnose, group_metrics, merge, policy_loss, sharded, summary
from gspo_core.metrics import FindingKind, Metrics, clip_counts, left_out_metrics
from gspo_core.planning import Plan

THREE = [member for member in MEMBERS if member.name in ("GSPO", "GRPO", "DAPO")]
OF_LOG_S = ("not_finite", "positive", "unlikeness", "log_s", "abs_log_s", "token_std", "design_effect", "kl_", "ess")


def without_advantage(batch: Batch, zero: list[bool]) -> np.ndarray:
    """The batch's advantages, 0 where the list is True."""
    return np.where(np.array(zero[: len(batch.mask)]), 0.0, batch.advantage)


@given(batch=batches(edges=False), zero=st.lists(st.booleans(), min_size=8, max_size=8), seed=st.integers(0, 99))
def test_what_was_run_and_what_was_left_out_are_the_whole_batch(
    library: Library, batch: Batch, zero: list[bool], seed: int
) -> None:
    """Sizes, shares, the loss and the table of lengths are those of a batch that was run whole; log s that of the rest."""
    member, advantage = THREE[seed % len(THREE)], without_advantage(batch, zero)
    assume(member.is_clear_of_kinks(batch, advantage, 1e-9))
    rows, denominator = Plan(advantage).step(member.objective, Padded(batch.mask))
    part = batch.rows(rows)
    assume(batch.mask.any())
    ran = measured(library, member.objective, part, advantage[rows], float(denominator))
    left_out = left_out_metrics(member.objective, library.array(advantage), Padded(library.array(batch.mask)))
    found = merge(ran, left_out)
    whole, loss_scale = judged(member, batch, advantage)
    known, _ = judged(member, part, advantage[rows])
    expected = {name: value for name, value in whole.items() if not name.startswith(OF_LOG_S)}
    expected |= {name: value for name, value in known.items() if name.startswith(OF_LOG_S)}
    expected["batches"] = expected["updates"] = float(part.mask.any())
    if not part.mask.any():
        for name in ("on_policy", "continued", "advantage_abs_max", "not_finite_advantages"):
            expected.pop(name, None)
    elif float(member.objective.count(Padded(part.mask))) != float(denominator):
        expected["loss_trained"] = expected["loss"]
    assert_numbers(summary(found), expected, largest(batch), loss_scale)
    entire = measured(library, member.objective, batch, advantage, float(denominator))
    assert clip_counts(found) == clip_counts(entire)


@given(batch=batches(edges=False), hole=st.sampled_from([-1, 1000]), zero=st.lists(st.booleans(), min_size=8, max_size=8))
def test_a_packed_or_a_sharded_layout_gives_the_same(batch: Batch, hole: int, zero: list[bool]) -> None:
    advantage = without_advantage(batch, zero)
    for member in THREE:
        expected = left_out_metrics(member.objective, advantage, Padded(batch.mask))
        found = [left_out_metrics(member.objective, advantage, Packed(pack(batch, hole)[0], len(batch.mask)))]
        width = batch.mask.shape[1] // 2
        ranks, columns = Ranks(2), (slice(0, width), slice(width, None))

        def one_rank(rank: int, member: Any = member, ranks: Any = ranks, columns: Any = columns) -> Metrics:
            layout = sharded(Padded(batch.mask[:, columns[rank]]), ranks.all_reduce(rank))
            return left_out_metrics(member.objective, advantage, layout)

        for metrics in (*found, *ranks.run(one_rank)):
            for a, b in zip(metrics, expected, strict=True):
                np.testing.assert_array_equal(a, b)


def test_by_hand() -> None:
    """Two of four responses are run, one of them is clipped: a quarter of all. Lengths 2 and 2 were run, 3 and 1 were not."""
    mask = np.arange(3) < np.array([[2], [2], [3], [1]])
    advantage, old = np.array([1.0, -1.0, 0.0, 0.0]), np.full((2, 3), -1.0)
    batch = (old + 0.5, old, advantage[:2], Padded(mask[:2]))
    ran = batch_metrics(GSPO, policy_loss(GSPO, *batch, denominator=4), *batch)
    numbers = summary(merge(ran, left_out_metrics(GSPO, advantage, Padded(mask))))
    expected = {
        "sequences": 4.0, "tokens": 8.0, "batches": 1.0, "zero_advantage": 0.5, "clip_active": 0.25, "clip_high": 0.25,
        "clip_active_tokens": 0.25, "length_mean": 2.0, "length_std": 0.5**0.5, "length_min": 1.0, "length_max": 3.0,
        "log_s_mean": 0.5, "log_s_std": 0.0, "advantage_abs_mean": 0.5, "ess": 1.0,
        "loss": (np.exp(0.5) - (1 + 4e-4)) / 4,
    }  # fmt: skip
    for name, value in expected.items():
        assert numbers[name] == pytest.approx(value, abs=10 * REL64), name


def test_if_nothing_was_run_the_numbers_say_why() -> None:
    advantage, layout = np.zeros(4), Padded(np.full((4, 2), True))
    metrics = merge(left_out_metrics(GSPO, advantage, layout), group_metrics(advantage, np.array([0, 0, 1, 1])))
    numbers = summary(metrics)
    assert (numbers["sequences"], numbers["zero_advantage"], numbers["loss"], numbers["batches"]) == (4.0, 1.0, 0.0, 0.0)
    assert not {"on_policy", "ess", "log_s_mean"} & set(numbers)
    (finding,) = diagnose(metrics, GSPO)
    assert finding.kind is FindingKind.CONSTANT_GROUPS


@pytest.mark.parametrize("shape", [(3, 4), (3, 0), (0, 4)])
def test_nothing_left_out_is_neutral(library: Library, shape: tuple[int, int]) -> None:
    """Where every response has an advantage, and where there is no token."""
    mask = np.full(shape, True)
    for advantage, tokens in ((np.ones(shape[0]), mask), (np.zeros(shape[0]), ~mask)):
        found = left_out_metrics(GSPO, library.array(advantage), Padded(library.array(tokens)))
        counts, sums, minima, maxima = (library.numpy(x) for x in found)
        assert counts.sum() == (advantage == 0).sum()
        assert not sums.any()
        assert (minima == np.inf).all()
        assert (maxima == -np.inf).all()


def test_a_nan_advantage_is_not_left_out() -> None:
    """As in a plan, which runs it so that it shows."""
    layout = Padded(np.full((2, 2), True))
    assert summary(left_out_metrics(GSPO, np.array([np.nan, 0.0]), layout))["sequences"] == 1.0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"objective": "GSPO"}, TypeError, "objective"),
        ({"layout": None}, TypeError, "layout"),
        ({"advantage": [0.0, 0.0]}, TypeError, "advantage"),
        ({"advantage": np.zeros(2, dtype=np.int64)}, TypeError, "advantage"),
        ({"advantage": np.zeros(3)}, ValueError, "advantage"),
        ({"advantage": np.zeros((2, 3))}, ValueError, "advantage"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"objective": GSPO, "advantage": np.zeros(2), "layout": Padded(np.full((2, 3), True))}
    with pytest.raises(error, match=f"^{message}"):
        left_out_metrics(**(arguments | change))
