"""Micro-batches with the whole batch's denominator add up to the whole: any split, empty parts included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from budgets import REL64, assert_close64, assert_within
from cases import Batch, batches, core_loss
from hypothesis import assume, given
from hypothesis import strategies as st
from libraries import NUMPY, Library

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Objective, Padded, TokenMean

OBJECTIVES = {
    "GSPO": GSPO,
    "GSPO_TOKEN": GSPO_TOKEN,
    "GRPO": GRPO,
    "GSPO_TOKEN, TokenMean": replace(GSPO_TOKEN, reduction=TokenMean()),
    "GRPO, TokenMean": replace(GRPO, reduction=TokenMean()),
}
DENOMINATORS: dict[str, Callable[[Library, int], Any]] = {
    "int": lambda _, total: total,
    "float": lambda _, total: float(total),
    "[] integer array": lambda library, total: library.array(np.asarray(total)),
    "[] float array": lambda library, total: library.array(np.asarray(total, dtype=np.float64)),
}
by_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())


def count(library: Library, objective: Objective, batch: Batch) -> int:
    """What the objective counts in a batch."""
    return int(objective.count(Padded(library.array(batch.mask))))


@by_objective
@given(kind=st.sampled_from(sorted(DENOMINATORS)), batch=batches(), parts=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_any_partition_adds_up(library: Library, objective: Objective, kind: str, batch: Batch, parts: int, seed: int) -> None:
    assume(batch.mask.any())
    objective = batch.with_clip(objective)
    owner = np.random.default_rng(seed).integers(0, parts, size=len(batch.mask))
    pieces = [(owner == part, batch.rows(owner == part)) for part in range(parts)]
    total = sum(count(library, objective, piece) for _, piece in pieces)
    assert total == count(library, objective, batch)

    whole = core_loss(library, objective, batch)
    value, weight = 0.0, np.zeros(batch.mask.shape)
    for where, piece in pieces:
        loss = core_loss(library, objective, piece, denominator=DENOMINATORS[kind](library, total))
        assert loss.denominator == total
        value += loss.value
        weight[where] = loss.logp_grad
    assert_close64(value, whole.value, np.abs(whole.logp_grad).sum() + abs(whole.value) + bounded_terms(batch))
    assert_within(weight, whole.logp_grad, REL64 * np.abs(whole.logp_grad))


def bounded_terms(batch: Batch) -> float:
    """Clipped terms have no weight but a value: |A| (1 + high) at most each."""
    return float(np.abs(batch.clean().advantage).sum() * (1 + batch.high))


def test_a_mean_of_micro_batch_means_is_another_number() -> None:
    """Why the denominator is explicit: 1 and 3 sequences, each part divided by its own count."""
    batch = Batch(
        np.zeros((4, 1)), np.zeros((4, 1)), np.ones((4, 1), dtype=bool), np.array([1.0, 0, 0, 0]), np.ones((4, 1)), 0.2, 0.2
    )
    parts = [batch.rows(slice(0, 1)), batch.rows(slice(1, 4))]
    assert_close64(core_loss(NUMPY, GSPO, batch).value, -0.25)
    assert_close64(np.mean([core_loss(NUMPY, GSPO, part).value for part in parts]), -0.5)
    assert_close64(sum(core_loss(NUMPY, GSPO, part, denominator=4).value for part in parts), -0.25)


def test_what_is_counted(library: Library) -> None:
    """Non-empty sequences, or tokens; by hand."""
    mask = np.array([[True, False, True], [False, False, False], [False, True, False]])
    layout = Padded(library.array(mask))
    assert [int(o.count(layout)) for o in OBJECTIVES.values()] == [2, 2, 2, 3, 3]


@by_objective
@given(batch=batches(), seed=st.integers(0, 2**16))
def test_the_order_of_rows_does_not_matter(library: Library, objective: Objective, batch: Batch, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(batch.mask))
    objective = batch.with_clip(objective)
    loss, permuted = core_loss(library, objective, batch), core_loss(library, objective, batch.rows(order))
    assert_close64(permuted.value, loss.value, np.abs(loss.logp_grad).sum() + bounded_terms(batch))
    assert_within(permuted.logp_grad, loss.logp_grad[order], REL64 * np.abs(loss.logp_grad[order]))
    assert (permuted.clipped == loss.clipped[order]).all()


@by_objective
@given(batch=batches(), times=st.integers(2, 4))
def test_duplicating_the_batch_changes_nothing_but_the_share(
    library: Library, objective: Objective, batch: Batch, times: int
) -> None:
    assume(batch.mask.any())
    objective = batch.with_clip(objective)
    loss = core_loss(library, objective, batch)
    many = core_loss(library, objective, batch.rows(np.tile(np.arange(len(batch.mask)), times)))
    assert_close64(many.value, loss.value, np.abs(loss.logp_grad).sum() + bounded_terms(batch))
    expected = np.tile(loss.logp_grad, (times, 1)) / times
    assert_within(many.logp_grad, expected, REL64 * np.abs(expected))


@by_objective
@given(batch=batches(), factor=st.floats(0.0, 1e6))
def test_the_loss_is_positively_homogeneous_in_the_advantage(
    library: Library, objective: Objective, batch: Batch, factor: float
) -> None:
    """C6: L(cA) = c L(A), for the weight too."""
    factor = factor if factor > 1e-100 else 0.0
    objective = batch.with_clip(objective)
    loss = core_loss(library, objective, batch)
    clean = batch.clean()
    scaled = core_loss(library, objective, batch, clean.advantage * factor)
    assert_close64(scaled.value, factor * loss.value, factor * (np.abs(loss.logp_grad).sum() + bounded_terms(batch)))
    assert_within(scaled.logp_grad, factor * loss.logp_grad, REL64 * factor * np.abs(loss.logp_grad))
