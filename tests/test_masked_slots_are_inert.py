"""Whatever stands in a masked slot, of any input, nothing changes by a bit; where padding stands does not matter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from budgets import REL64, assert_close64, assert_same_bits, assert_within
from cases import POISONS, Batch, Case, batches, core_loss
from hypothesis import assume, given
from hypothesis import strategies as st
from libraries import Library

from gspo_core import GSPO, Loss

FIELDS = ["value", "logp_grad", "log_ratio", "clipped", "denominator"]


def assert_bitwise_equal(a: Loss, b: Loss) -> None:
    """Every array of two losses, bit by bit."""
    for name in FIELDS:
        assert_same_bits(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(batch=batches(), poison=st.sampled_from(POISONS))
def test_poison_in_masked_slots_changes_no_bit(library: Library, case: Case, dtype: type, batch: Batch, poison: float) -> None:
    objective = batch.with_clip(case.preset)
    clean, dirty = batch.clean(), batch.poisoned(poison)
    for per_token in {False, case.per_token}:
        a, b = (core_loss(library, objective, x, x.advantages(per_token), dtype=dtype) for x in (clean, dirty))
        assert_bitwise_equal(a, b)


@pytest.mark.parametrize("array", ["logp", "old_logp", "token_advantage", "advantage"])
@pytest.mark.parametrize("poison", POISONS)
def test_each_input_may_be_poisoned_alone(library: Library, token_case: Case, array: str, poison: float) -> None:
    """Not only all together: NaN − NaN and ∞ − ∞ hide different mistakes than NaN − 0."""
    rng = np.random.default_rng(0)
    mask = np.array([[True, False, True], [False, False, False], [False, True, True]])
    tokens = [rng.normal(size=(3, 3)) for _ in range(3)]
    clean = Batch(tokens[0], tokens[1], mask, rng.normal(size=3), tokens[2], 0.2, 0.27).clean()
    dirty = replace(clean, **{array: getattr(clean.poisoned(poison), array)})
    objective, per_token = clean.with_clip(token_case.preset), array != "advantage"
    losses = [core_loss(library, objective, batch, batch.advantages(per_token)) for batch in (clean, dirty)]
    assert_bitwise_equal(*losses)


@given(batch=batches())
def test_masked_slots_have_exactly_no_weight_no_ratio_and_no_clipping(library: Library, case: Case, batch: Batch) -> None:
    loss = core_loss(library, batch.with_clip(case.preset), batch)
    units = batch.mask if case.per_token else batch.mask.any(axis=1)
    assert not loss.logp_grad[~batch.mask].any()
    assert not loss.log_ratio[~units].any()
    assert not loss.clipped[~units].any()


def test_multiplying_by_the_mask_would_fail_these_tests() -> None:
    """The classic mistake: 0 · NaN is NaN."""
    with pytest.raises(AssertionError):
        assert_same_bits(np.array([np.nan, 1.0]) * np.array([0.0, 1.0]), np.array([0.0, 1.0]))


def relaid(batch: Batch, slots: list[np.ndarray], width: int, fill: float) -> Batch:
    """The same tokens, in the same order, at other slots of wider rows."""

    def move(x: np.ndarray, empty: float) -> np.ndarray:
        out = np.full((len(x), width), empty, dtype=x.dtype)
        for i, where in enumerate(slots):
            out[i, where] = x[i, batch.mask[i]]
        return out

    arrays = {name: move(getattr(batch, name), fill) for name in ("logp", "old_logp", "token_advantage")}
    return replace(batch, mask=move(batch.mask, 0.0), **arrays)


def assert_same_tokens(a: Loss, mask_a: np.ndarray, b: Loss, mask_b: np.ndarray, case: Case, scale: float) -> None:
    """Same value, and token by token the same weight; sums may be taken in another order."""
    assert_close64(a.value, b.value, scale)
    assert_within(a.logp_grad[mask_a], b.logp_grad[mask_b], REL64 * np.abs(b.logp_grad[mask_b]))
    assert (a.clipped[mask_a] == b.clipped[mask_b]).all() if case.per_token else (a.clipped == b.clipped).all()


@given(batch=batches(), poison=st.sampled_from(POISONS), extra=st.integers(0, 4), seed=st.integers(0, 2**16))
def test_left_right_and_interleaved_padding_agree(
    library: Library, case: Case, batch: Batch, poison: float, extra: int, seed: int
) -> None:
    assume(batch.distance_to_kinks(case) > 1e-9)
    rng, lengths, width = np.random.default_rng(seed), batch.mask.sum(axis=1), batch.mask.shape[1] + extra
    reference = core_loss(library, batch.with_clip(case.preset), batch)
    placements = {
        "right padded": [np.arange(n) for n in lengths],
        "left padded": [np.arange(width - n, width) for n in lengths],
        "with holes": [np.sort(rng.permutation(width)[:n]) for n in lengths],
    }
    for slots in placements.values():
        moved = relaid(batch, slots, width, poison)
        loss = core_loss(library, batch.with_clip(case.preset), moved)
        assert_same_tokens(loss, moved.mask, reference, batch.mask, case, batch.judged(case).scale)


@given(batch=batches())
def test_an_empty_row_is_no_row(library: Library, case: Case, batch: Batch) -> None:
    assume(batch.distance_to_kinks(case) > 1e-9)
    kept = batch.mask.any(axis=1)
    objective = batch.with_clip(case.preset)
    loss, without = core_loss(library, objective, batch), core_loss(library, objective, batch.rows(kept))
    assert_close64(loss.value, without.value, batch.judged(case).scale)
    assert_within(loss.logp_grad[kept], without.logp_grad, REL64 * np.abs(without.logp_grad))
    assert_within(loss.log_ratio[kept], without.log_ratio, REL64 * np.abs(without.log_ratio).max(initial=0.0))
    if kept.any():
        assert loss.denominator == without.denominator == kept.sum()


@pytest.mark.parametrize("shape", [(3, 4), (3, 0), (0, 4), (0, 0), (1, 1)])
@pytest.mark.parametrize("poison", POISONS)
def test_a_batch_without_tokens_has_no_loss(library: Library, case: Case, shape: tuple[int, int], poison: float) -> None:
    nothing = Batch(
        np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool), np.zeros(shape[0]), np.zeros(shape), 0.2, 0.2
    )
    loss = core_loss(library, nothing.with_clip(case.preset), nothing.poisoned(poison))
    assert_same_bits(loss.value, np.zeros(()))
    assert_same_bits(loss.logp_grad, np.zeros(shape))
    assert not loss.clipped.any()
    assert loss.denominator == 1


def test_the_length_is_the_sum_of_the_mask_not_a_width(library: Library) -> None:
    """Three tokens spread over six columns: log s is the sum over 3, by hand."""
    mask = np.array([[False, True, False, True, True, False]])
    logp = np.where(mask, 0.3, np.nan)
    batch = Batch(logp, np.zeros((1, 6)), mask, np.ones(1), np.ones((1, 6)), 0.9, 5.0)
    loss = core_loss(library, batch.with_clip(GSPO), batch)
    assert_close64(loss.log_ratio, [0.3])
    assert_close64(loss.logp_grad[mask], np.full(3, -np.exp(0.3) / 3))
