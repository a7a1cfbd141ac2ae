"""Sampler weights are π_old/π_sampler, truncated, masked or used as a filter; always finite, and 1 where engines agree."""

from __future__ import annotations

import math
from typing import Any

import gspo_torch
import numpy as np
import oracle_sampler as judge
import pytest
import torch
from budgets import assert_close64, assert_same_bits, assert_within, float32_budget
from cases import POISONS, Batch, batches
from hypothesis import assume, given
from hypothesis import strategies as st
from libraries import Library

from gspo_core import (
    GEO_RS,
    GRPO,
    GSPO,
    ICEPOP,
    MIS,
    TIS,
    Correction,
    GeometricWeight,
    Mask,
    Packed,
    Padded,
    PerToken,
    ProductWeight,
    Reject,
    SamplerWeight,
    TokenWeight,
    Truncate,
    policy_loss,
    sampler_weight,
)

LEVELS = [TokenWeight(), ProductWeight(), GeometricWeight()]
ACTIONS: list[tuple[Any, Any, float, float]] = [
    (Truncate(2.0), judge.truncated, 0.0, 2.0),
    (Truncate(1.5, low=0.5), judge.truncated, 0.5, 1.5),
    (Truncate(math.inf, low=0.9), judge.truncated, 0.9, math.inf),
    (Mask(0.5, 2.0, drop=False), judge.masked, 0.5, 2.0),
    (Mask(0.0, 1.25, drop=True), judge.masked, 0.0, 1.25),
    (Reject(0.9, 1.1, drop=True), judge.filtered, 0.9, 1.1),
    (Reject(0.5, math.inf, drop=False), judge.filtered, 0.5, math.inf),
]
by_level = pytest.mark.parametrize("level", LEVELS, ids=repr)
by_action = pytest.mark.parametrize(("action", "act", "low", "high"), ACTIONS, ids=[repr(a[0]) for a in ACTIONS])
NAMED = pytest.mark.parametrize("correction", [TIS, MIS, ICEPOP, GEO_RS], ids=["TIS", "MIS", "ICEPOP", "GEO_RS"])


def weights(library: Library, correction: Correction, batch: Batch, dtype: type = np.float64) -> SamplerWeight:
    """The core's, on one library, as NumPy arrays; old_logp is the trainer's, logp plays the sampler's."""
    old, sampler = (library.array(x.astype(dtype)) for x in (batch.old_logp, batch.logp))
    out = sampler_weight(correction, old, sampler, Padded(library.array(batch.mask)))
    return SamplerWeight(*(library.numpy(x) for x in out[:-1]), out.layout)


def raw_weights(level: Any, batch: Batch) -> np.ndarray:
    """The oracle's."""
    rows = (batch.old_logp.tolist(), batch.logp.tolist(), batch.mask.tolist())
    if level.per_token:
        return np.reshape(np.array(judge.token_weights(*rows)), batch.mask.shape)
    return np.array(judge.sequence_weights(*rows, geometric=isinstance(level, GeometricWeight)))


def bounded(act: Any, raw: np.ndarray, low: float, high: float, units: np.ndarray) -> np.ndarray:
    """The oracle's action on every unit that is there."""
    out = np.array([act(w, low, high) for w in raw.ravel().tolist()]).reshape(raw.shape)
    return np.where(units, out, 0.0)


def clear_of_bounds(raw: np.ndarray, low: float, high: float, width: float) -> None:
    """No unit so near to a bound that rounding decides."""
    with np.errstate(divide="ignore"):
        assume(not (np.abs(np.log(raw[raw > 0, None]) - np.log([[low, high]])) < width).any())


@by_action
@by_level
@given(batch=batches(edges=False))
def test_weights_are_the_scalar_ones(
    library: Library, level: Any, action: Any, act: Any, low: float, high: float, batch: Batch
) -> None:
    raw, units = raw_weights(level, batch), batch.mask if level.per_token else batch.mask.any(axis=1)
    clear_of_bounds(raw, low, high, 1e-9)
    out = weights(library, Correction(level, action), batch)
    expected = bounded(act, raw, low, high, units)
    assert_within(out.weight, expected, 1e-11 * expected)
    assert_within(out.raw[raw < math.exp(50)], raw[raw < math.exp(50)], 1e-11 * raw[raw < math.exp(50)])
    rejecting = not isinstance(action, Truncate)
    assert out.kept.tolist() == (units & ((raw >= low) & (raw <= high) if rejecting else True)).tolist()
    assert not out.weight[~units].any()
    assert not out.raw[~units].any()
    assert not out.log_raw[~units].any()


@by_level
@given(batch=batches(edges=False))
def test_float32_weights_stay_in_their_budget(library: Library, level: Any, batch: Batch) -> None:
    """For a product the sum of the gaps is off by |y|² eps max|d|, not by its |y|-th part."""
    batch = batch.rounded(np.float32)
    raw = raw_weights(level, batch)
    largest = np.abs(np.where(batch.mask, batch.old_logp - batch.logp, 0.0)).max(initial=0.0)
    out = weights(library, Correction(level, Truncate(4.0)), batch, np.float32)
    expected = np.minimum(raw, 4.0)
    assert out.weight.dtype == np.float32
    assert_within(out.weight, expected, 9 * float32_budget(9, largest) * np.maximum(expected, 1e-30))


def test_both_sides_of_the_bounds_are_drawn() -> None:
    """The guard of the tests above."""
    seen: set[tuple[bool, bool]] = set()

    @given(batch=batches(edges=False))
    def look(batch: Batch) -> None:
        for level in LEVELS:
            raw = raw_weights(level, batch)
            seen.update((level.per_token, side) for side in (raw > 2.0)[raw > 0].ravel().tolist())

    look()
    assert len(seen) == 4


def test_hand_computed_numbers(library: Library) -> None:
    """Gaps log 4 and log ¼ in one response, log 3 twice in the other."""
    old = np.log([[0.8, 0.1], [0.75, 0.75]])
    sampler = np.log([[0.2, 0.4], [0.25, 0.25]])
    batch = Batch(sampler, old, np.ones((2, 2), dtype=bool), np.ones(2), np.ones((2, 2)), 0.2, 0.2)
    expected = {
        TIS: [[2, 0.25], [2, 2]],
        ICEPOP: [[4, 0], [3, 3]],
        MIS: [1, 0],
        GEO_RS: [1, 0],
        Correction(ProductWeight(), Truncate(5.0)): [1, 5],
        Correction(GeometricWeight(), Mask(0.5, 5.0, drop=False)): [1, 3],
    }
    for correction, numbers in expected.items():
        assert_close64(weights(library, correction, batch).weight, np.array(numbers, dtype=float))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_one_sided_gap_of_a_long_response(library: Library, dtype: type) -> None:
    """−2.8/9000 nats per token: the product is e^−2.8 = 0.06, the geometric mean 0.9997."""
    length = 9000
    old, mask = np.full((1, length), -1.0 - 2.8 / length), np.ones((1, length), dtype=bool)
    batch = Batch(np.full((1, length), -1.0), old, mask, np.ones(1), np.ones((1, length)), 0.2, 0.2)
    # Each float32 log-prob near 1 is off by 6e-8 at most, and so is the mean of the gaps: 5e-4 of the sum.
    for level, expected, error in [(ProductWeight(), math.exp(-2.8), 1e-3), (GeometricWeight(), math.exp(-2.8 / length), 1e-7)]:
        out = weights(library, Correction(level, Truncate(2.0)), batch, dtype)
        assert abs(out.weight[0] - expected) < error
        assert_same_bits(out.weight, out.raw)
    assert abs(math.exp(-2.8) - 0.06) < 1e-3 > abs(math.exp(-2.8 / length) - 0.9997)
    assert weights(library, MIS, batch, dtype).weight.tolist() == [0]
    assert weights(library, GEO_RS, batch, dtype).weight.tolist() == [1]


@NAMED
@given(batch=batches())
def test_equal_policies_have_weight_one_bit_by_bit(library: Library, correction: Correction, batch: Batch) -> None:
    same = Batch(batch.old_logp, batch.old_logp, batch.mask, batch.advantage, batch.token_advantage, 0.2, 0.2)
    for dtype in (np.float32, np.float64):
        out = weights(library, correction, same.poisoned(np.nan), dtype)
        units = batch.mask if correction.level.per_token else batch.mask.any(axis=1)
        assert_same_bits(out.weight, units.astype(dtype))
        assert_same_bits(out.raw, units.astype(dtype))
        assert_same_bits(out.kept, units)


@pytest.mark.parametrize("action", [a[0] for a in ACTIONS], ids=repr)
@by_level
@given(batch=batches(), poison=st.sampled_from(POISONS))
def test_masked_slots_are_inert(library: Library, level: Any, action: Any, batch: Batch, poison: float) -> None:
    correction = Correction(level, action)
    clean, dirty = (weights(library, correction, x) for x in (batch.clean(), batch.poisoned(poison)))
    for x, y in zip(clean[:-1], dirty[:-1], strict=True):
        assert_same_bits(x, y)
    valid = [library.numpy(x.layout.valid) for x in (clean, dirty)]
    assert_same_bits(*valid)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("action", [a[0] for a in ACTIONS], ids=repr)
@by_level
def test_gaps_of_a_million_are_finite(library: Library, level: Any, action: Any, dtype: type) -> None:
    gaps = np.array([1e6, 1e3, 89.0, 50.0, -50.0, -104.0, -1e3, -1e6])[:, None] * np.ones((1, 3))
    batch = Batch(
        np.minimum(-gaps, 0), np.minimum(gaps, 0), np.ones(gaps.shape, bool), np.ones(len(gaps)), np.ones(gaps.shape), 0.2, 0.2
    )
    out = weights(library, Correction(level, action), batch, dtype)
    for x in (out.weight, out.raw, out.log_raw):
        assert x.dtype == dtype
        assert np.isfinite(x).all()
    assert (out.weight >= 0).all()


def test_what_is_no_number_is_truncated_to_itself_and_never_kept_by_a_band(library: Library) -> None:
    old, sampler = np.zeros((1, 3)), np.array([[np.nan, 0.0, -np.inf]])
    batch = Batch(sampler, old, np.ones((1, 3), dtype=bool), np.ones(1), np.ones((1, 3)), 0.2, 0.2)
    assert np.isnan(weights(library, TIS, batch).weight).tolist() == [[True, False, False]]
    for action in (Mask(0.5, 2.0, drop=False), Reject(0.5, 2.0, drop=False)):
        assert weights(library, Correction(TokenWeight(), action), batch).weight.tolist() == [[0, 1, 0]]


def rejecting_batch() -> Batch:
    """Token weights (1, 3, 1), (1, 1), (9, 9): one token of the first response and all of the last are beyond 2."""
    mask = np.array([[True, True, True], [True, True, False], [False, True, True]])
    gaps = np.log([[1.0, 3.0, 1.0], [1.0, 1.0, 1.0], [1.0, 9.0, 9.0]])
    return Batch(-gaps, np.zeros((3, 3)), mask, np.array([1.0, -1.0, 1.0]), np.ones((3, 3)), 0.2, 0.2)


def test_what_is_rejected_counts_or_does_not_as_the_action_says(library: Library) -> None:
    """|y_i|, the batch's own denominator and hence every weight, by hand; tokens first, then whole sequences."""
    batch = rejecting_batch()
    old, adv = library.array(batch.old_logp), library.array(batch.advantage)
    expected = {
        (TokenWeight(), False): ([3, 2, 2], [[-1 / 9, 0, -1 / 9], [1 / 6, 1 / 6, 0], [0, 0, 0]]),
        (TokenWeight(), True): ([2, 2, 0], [[-1 / 4, 0, -1 / 4], [1 / 4, 1 / 4, 0], [0, 0, 0]]),
        (GeometricWeight(), False): ([3, 2, 2], [[-(3 ** (1 / 3)) / 9] * 3, [1 / 6, 1 / 6, 0], [0, 0, 0]]),
        (GeometricWeight(), True): ([3, 2, 0], [[-(3 ** (1 / 3)) / 6] * 3, [1 / 4, 1 / 4, 0], [0, 0, 0]]),
    }
    for (level, drop), (lengths, grads) in expected.items():
        w = sampler_weight(
            Correction(level, Mask(0.5, 2.0, drop=drop)),
            old,
            library.array(batch.logp),
            Padded(library.array(batch.mask)),
        )
        assert library.numpy(w.layout.lengths()).tolist() == lengths
        weighted = w.layout.spread(adv) * w.weight if level.per_token else adv * w.weight
        loss = policy_loss(GRPO if level.per_token else GSPO, old, old, weighted, w.layout)
        assert_close64(library.numpy(loss.logp_grad), grads)


@pytest.mark.parametrize("action", [Truncate(2.0), Mask(0.5, 2.0, drop=True)], ids=repr)
@by_level
def test_packed_and_padded_agree(library: Library, level: Any, action: Any) -> None:
    batch = rejecting_batch()
    padded = weights(library, Correction(level, action), batch)
    where = batch.mask.ravel()
    ids = np.where(where, np.repeat(np.arange(3), 3), -1)
    packed = sampler_weight(
        Correction(level, action),
        library.array(batch.old_logp.ravel()),
        library.array(batch.logp.ravel()),
        Packed(library.array(ids), 3),
    )
    assert_close64(library.numpy(packed.weight), padded.weight.ravel())
    assert library.numpy(packed.kept).tolist() == padded.kept.ravel().tolist()
    assert library.numpy(packed.layout.lengths()).tolist() == library.numpy(padded.layout.lengths()).tolist()
    if level.per_token:
        tokens = PerToken(packed.layout.spread(library.array(batch.advantage)) * packed.weight)
        old = library.array(batch.old_logp.ravel())
        loss = policy_loss(GRPO, old, old, tokens, packed.layout)
        assert np.isfinite(library.numpy(loss.value))


def test_truncation_leaves_the_layout_alone() -> None:
    layout = Padded(np.ones((1, 2), dtype=bool))
    assert sampler_weight(TIS, np.zeros((1, 2)), np.ones((1, 2)), layout).layout is layout


def test_no_gradient_reaches_the_log_probs_it_is_made_of() -> None:
    """PyTorch, through gspo_torch: the old and the sampler's log-probs are data."""
    old, sampler, logp = (torch.full((2, 3), x, dtype=torch.float64, requires_grad=True) for x in (-1.0, -1.1, -1.05))
    layout = Padded(torch.ones((2, 3), dtype=torch.bool))
    w = sampler_weight(MIS, old, sampler, layout)
    advantage = torch.tensor([1.0, -1.0], dtype=torch.float64) * w.weight
    loss = gspo_torch.policy_loss(GSPO, logp, old, advantage, layout)
    found = torch.autograd.grad(loss.value, (logp, old, sampler), allow_unused=True)
    assert found[0] is not None
    assert found[1:] == (None, None)


@pytest.mark.parametrize("objective", [GSPO, GRPO], ids=["GSPO", "GRPO"])
def test_a_layout_that_lost_tokens_goes_through_autograd(objective: Any) -> None:
    """gspo_torch takes what the correction leaves, whatever the levels."""
    batch = rejecting_batch()
    old, sampler = torch.tensor(batch.old_logp), torch.tensor(batch.logp)
    w = sampler_weight(Correction(TokenWeight(), Reject(0.5, 2.0, drop=True)), old, sampler, Padded(torch.tensor(batch.mask)))
    logp = old.clone().requires_grad_()
    loss = gspo_torch.policy_loss(objective, logp, old, torch.tensor(batch.advantage), w.layout)
    loss.value.backward()
    assert_close64(logp.grad.numpy(), [[-1 / 4, 0, -1 / 4], [1 / 4, 1 / 4, 0], [0, 0, 0]])


GOOD = (np.zeros((2, 3)), np.zeros((2, 3)), Padded(np.ones((2, 3), dtype=bool)))
WRONG: list[tuple[type[Exception], str, tuple[Any, ...]]] = [
    (TypeError, r"^correction: expected a Correction such as TIS, got str", ("tis", *GOOD)),
    (TypeError, r"^layout: expected a layout such as Padded\(mask\), got ndarray", (TIS, GOOD[0], GOOD[1], GOOD[0] > 1)),
    (TypeError, r"^sampler_logp: expected an array, got list", (TIS, GOOD[0], [[0.0]], GOOD[2])),
    (ValueError, r"^old_logp: expected the layout's shape \[2, 3\], got \[2\]", (TIS, np.zeros(2), GOOD[1], GOOD[2])),
    (TypeError, r"^old_logp: expected real floating-point log-probs, got dtype int", (TIS, np.zeros((2, 3), int), *GOOD[1:])),
    (
        TypeError,
        r"^sampler_logp: expected float32 or float64, got float16",
        (TIS, GOOD[0], GOOD[1].astype(np.float16), GOOD[2]),
    ),
]


@pytest.mark.parametrize(("kind", "sentence", "arguments"), WRONG, ids=[w[1][1:45] for w in WRONG])
def test_wrong_arguments_are_named(kind: type[Exception], sentence: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(kind, match=sentence):
        sampler_weight(*arguments)


def test_low_precision_can_be_accepted() -> None:
    out = sampler_weight(TIS, GOOD[0].astype(np.float16), GOOD[1].astype(np.float32), GOOD[2], allow_low_precision=True)
    assert out.weight.dtype == np.float32


@pytest.mark.parametrize("make", [Mask, Reject, Truncate])
def test_bounds_hold_one_and_do_something(make: Any) -> None:
    """Beyond that, a weight would not be 1 for equal policies, or the option would have no effect."""
    drop = {} if make is Truncate else {"drop": False}
    with pytest.raises(ValueError, match=r"^low: expected a weight between 0 and 1, got 1.5"):
        make(low=1.5, high=2.0, **drop)
    with pytest.raises(ValueError, match=r"^low: expected a weight between 0 and 1, got nan"):
        make(low=math.nan, high=2.0, **drop)
    with pytest.raises(ValueError, match=r"^high: expected a weight of at least 1, got 0.5"):
        make(low=0.0, high=0.5, **drop)
    with pytest.raises(ValueError, match=r"^low, high: expected a bound on at least one side, got 0 and inf, which do nothing"):
        make(low=0.0, high=math.inf, **drop)


def test_a_correction_is_made_of_values() -> None:
    with pytest.raises(TypeError, match=r"^level: expected a value, got the class TokenWeight; write TokenWeight\(...\)"):
        Correction(TokenWeight, Truncate(2.0))
    with pytest.raises(TypeError, match=r"^action: expected a value, got the class Mask; write Mask\(...\)"):
        Correction(TokenWeight(), Mask)
    assert len({TIS, MIS, ICEPOP, GEO_RS, Correction(TokenWeight(), Truncate(2.0))}) == 4
