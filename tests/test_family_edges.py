"""Every preset at the edges: ±1e6 nats, A = 0, poison, the bound itself and one step beyond, numbers done by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from budgets import REL64, assert_close64, assert_same_bits, assert_within
from cases import POISONS, Batch, batches, core_loss
from family import PRESETS, Member, by_member
from hypothesis import given
from hypothesis import strategies as st
from libraries import NUMPY, Library, on_every_library

from gspo_core import (
    Band,
    Clip,
    DualClip,
    FixedLength,
    GammaWeight,
    GateOnly,
    Objective,
    OffPolicyMask,
    Product,
    ReciprocalWeight,
    Sequence,
    SequenceMean,
    SoftGate,
    Token,
    TokenClip,
    TruncatedWeight,
    Unclipped,
)

DTYPES = [np.float32, np.float64]
HUGE = [1e6, 1e5, 1e3, 100.0, 89.0, 88.0, 50.0, 0.0, -50.0, -88.0, -104.0, -746.0, -1e3, -1e6]


def rows(d: np.ndarray, advantage: np.ndarray) -> Batch:
    """One response per row of d, all valid; log-probs are not positive and their difference is d exactly."""
    tokens = np.repeat(advantage[:, None], d.shape[1], axis=1)
    return Batch(np.minimum(d, 0), np.minimum(-d, 0), np.ones(d.shape, dtype=bool), advantage, tokens, 0.2, 0.2)


# ---- finite


@on_every_library
@by_member
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("advantage", [0.0, 1.0, -1.0, 1e3, -1e3, 1e-3, -1e-3])
def test_log_ratios_of_a_million_are_finite(library: Library, member: Member, dtype: type, advantage: float) -> None:
    mixed = np.array([[1e6, -1e6, 3.0], [1e6, 1e6, -1e6], [-1e6, -1e6, 1.0]])
    d = np.vstack([np.repeat(np.array(HUGE)[:, None], 3, axis=1), mixed])
    loss = core_loss(library, member.objective, rows(d, np.full(len(d), advantage)), dtype=dtype)
    for x in (loss.value, loss.logp_grad, loss.log_ratio):
        assert x.dtype == dtype
        assert np.isfinite(x).all()
    if advantage == 0:
        assert not loss.value
        assert not loss.logp_grad.any()
        assert not loss.clipped.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_guards_leave_no_flat_spot_where_a_method_pushes_down(dtype: type) -> None:
    """Guard: finite is not zero. For A < 0 and d = 1e6 the hard methods without a ceiling keep their weight at e^50."""
    batch = rows(np.array([[1e6]]), np.array([-1.0]))
    for name in ("GSPO", "GRPO", "GMPO", "FSPO", "LUSPO", "DEEPSEEK_V3_2"):
        weight = core_loss(NUMPY, PRESETS[name], batch, dtype=dtype).logp_grad[0, 0]
        assert_within(weight, np.exp(50.0), 8 * np.finfo(dtype).eps * np.exp(50.0))


# ---- long


def long_responses(summed: bool) -> Batch:
    """32k tokens whose log ratios scatter by 0.05; their mean, or where that is the unit their sum, is set."""
    rng, width = np.random.default_rng(0), 2**15
    lengths = np.array([width, width - 1, 1000, width // 2])[:, None]
    mask = np.arange(width) < lengths
    d = np.where(mask, 0.05 * rng.normal(size=mask.shape), 0.0)
    d = d - d.sum(axis=1, keepdims=True) / lengths
    d = d + (np.array([[0.0], [1.0], [-1.0], [2.0]]) / lengths if summed else np.array([[0.0], [1e-4], [-1e-4], [1e-3]]))
    old = -rng.exponential(size=mask.shape)
    batch = Batch(old + d, old, mask, np.array([1.0, -1.0, 0.5, -0.5]), np.zeros(mask.shape), 0.2, 0.2)
    return batch.rounded(np.float32)


@on_every_library
@by_member
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_response_of_32k_tokens_in_float32_is_float64_to_1e_6(library: Library, member: Member, sign: float) -> None:
    """The clip range is 3e-4: an error of 1e-6 in log s is a three-hundredth of it. Where the log ratio is the sum of 32k
    numbers, not their mean, it may be ten times that; VESPO's weight ρᵏ e^(λ(1−ρ)) magnifies it by |k − λρ|, at most 3 e²."""
    summed = member.name in ("FSPO", "VESPO")
    batch = long_responses(summed)
    batch = replace(batch, advantage=sign * batch.advantage)
    wide = core_loss(NUMPY, member.objective, batch)
    narrow = core_loss(library, member.objective, batch, dtype=np.float32)
    size = 1e-5 if summed else 1e-6
    assert_within(narrow.log_ratio, wide.log_ratio, size)
    size *= 3 * math.exp(2) if member.name == "VESPO" else 1.0
    assert_within(narrow.value, wide.value, size * max(1.0, abs(float(wide.value))))
    assert_within(narrow.logp_grad, wide.logp_grad, size * np.abs(wide.logp_grad))
    assert (narrow.clipped == wide.clipped).all()
    assert np.abs(wide.log_ratio).max() > 1e-4
    assert wide.logp_grad.any()


# ---- masked slots


@by_member
@pytest.mark.parametrize("dtype", DTYPES)
@given(batch=batches(max_tokens=5), poison=st.sampled_from(POISONS))
def test_poison_in_masked_slots_changes_no_bit(member: Member, dtype: type, batch: Batch, poison: float) -> None:
    per_token = member.method.per_token
    clean, dirty = (
        core_loss(NUMPY, member.objective, x, member.advantage(x, per_token), dtype=dtype)
        for x in (batch.clean(), batch.poisoned(poison))
    )
    for a, b in zip(clean[:5], dirty[:5], strict=True):
        assert_same_bits(a, b)
    assert not clean.logp_grad[~batch.mask].any()


@on_every_library
@by_member
@pytest.mark.parametrize("poison", POISONS)
def test_poison_is_inert_on_every_library(library: Library, member: Member, poison: float) -> None:
    rng = np.random.default_rng(1)
    mask = np.array([[True, False, True], [False, False, False], [False, True, True]])
    batch = Batch(
        *(0.3 * rng.normal(size=(3, 3)) for _ in range(2)), mask, rng.normal(size=3), rng.normal(size=(3, 3)), 0.2, 0.2
    )
    clean, dirty = (core_loss(library, member.objective, x) for x in (batch.clean(), batch.poisoned(poison)))
    for a, b in zip(clean[:5], dirty[:5], strict=True):
        assert_same_bits(a, b)


# ---- on the bound, and one step beyond

GATED: list[tuple[Any, float, float]] = [
    (Objective(Token(), Clip(0.2, 0.3), SequenceMean()), math.log1p(0.3), 1.0),
    (Objective(Token(), Clip(0.2, 0.3), SequenceMean()), math.log1p(-0.2), -1.0),
    (Objective(Sequence(), GateOnly(0.2, 0.3), SequenceMean()), math.log1p(0.3), 1.0),
    (Objective(Sequence(), GateOnly(0.2, 0.3), SequenceMean()), math.log1p(-0.2), -1.0),
    (Objective(Token(), ReciprocalWeight(0.2, 0.3, 3.0), SequenceMean()), math.log1p(0.3), 1.0),
    (Objective(Token(), ReciprocalWeight(0.2, 0.3, 3.0), SequenceMean()), math.log1p(-0.2), -1.0),
    (Objective(Sequence(), Unclipped(), SequenceMean(), TokenClip(0.5, 0.25)), 0.25, 1.0),
    (Objective(Sequence(), Unclipped(), SequenceMean(), TokenClip(0.5, 0.25)), -0.5, -1.0),
    (Objective(Product(), Unclipped(), SequenceMean(), Band(0.25, 0.5)), 0.25, 1.0),
    (Objective(Product(), Unclipped(), SequenceMean(), Band(0.25, 0.5)), -0.25, -1.0),
    (Objective(Token(), Unclipped(), SequenceMean(), OffPolicyMask(0.5)), -0.5, -1.0),
]


@on_every_library
@pytest.mark.parametrize(("objective", "bound", "advantage"), GATED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_open_on_the_bound_and_closed_one_step_beyond(
    library: Library, objective: Objective, bound: float, advantage: float, dtype: type
) -> None:
    on = dtype(bound)
    for log_ratio, closed in ((on, False), (np.nextafter(on, dtype(np.inf * advantage)), True)):
        loss = core_loss(library, objective, rows(np.array([[float(log_ratio)]]), np.array([advantage])), dtype=dtype)
        assert loss.clipped.reshape(-1).tolist() == [closed]
        assert (loss.logp_grad[0, 0] == 0.0) == closed
    # The other sign of advantage is not bounded there.
    other = core_loss(library, objective, rows(np.array([[2.0 * bound]]), np.array([-advantage])), dtype=dtype)
    assert not other.clipped.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_dual_clip_is_live_on_its_cap_and_dead_beyond(dtype: type) -> None:
    on = dtype(math.log(3.0))
    for log_ratio, slope_is_zero in ((on, False), (np.nextafter(on, dtype(np.inf)), True)):
        x, a = np.array([log_ratio], dtype=dtype), np.array([-1.0], dtype=dtype)
        assert (DualClip(0.2, 0.2, 3.0)(np, x, a).slope[0] == 0) == slope_is_zero


# ---- by hand

ANCHORS: list[tuple[str, list[float], float, float, list[float]]] = [
    # name, token ratios of one response, A, loss, weights
    ("GMPO", [2.0, 0.5], 1.0, -math.exp((0.4 - math.log(2)) / 2), [0.0, -math.exp((0.4 - math.log(2)) / 2) / 2]),
    ("FSPO", [1.5, 0.8], -1.0, 1.2, [1.2, 1.2]),
    ("FSPO", [1.5, 0.8], 1.0, -math.exp(0.03 * math.sqrt(2)), [0.0, 0.0]),
    ("VESPO", [2.0, 0.5], 3.0, -3.0, [-1.5, -1.5]),
    ("VESPO", [0.5, 1.0], -1.0, 0.125 * math.e, [0.0625 * math.e] * 2),
    ("CISPO", [10.0, 0.5], 2.0, -5.5, [-5.0, -0.5]),
    ("SAPO", [1.0, 1.0], 1.0, -2.0, [-0.5, -0.5]),
    ("SAPO", [2.0, 1.0], 1.0, -1.0 - 2 / (1 + math.exp(-1)), [-1.0 / math.cosh(0.5) ** 2, -0.5]),
    ("ASPO", [0.5, 0.25], 1.0, -2.5, [-1.0, -1.5]),
    ("ASPO", [1.5, 1.1], 1.0, -(1 / 1.2 + 1 / 1.1) / 2, [0.0, -0.5 / 1.1]),
    ("ASPO", [0.5, 9.0], -1.0, 1.9, [0.0, 1.5]),
    ("LUSPO", [1.001, 1.001], 1.0, -2.002, [-1.001, -1.001]),
    ("DR_GRPO", [1.1, 1.5], 3.0, -0.0023, [-0.0011, 0.0]),
    ("DAPO", [1.25, 1.5], 1.0, -1.265, [-0.625, 0.0]),
    ("GATE_ONLY_GSPO", [1.0001, 1.0001], 2.0, -2.0 - 2 * math.log(1.0001), [-1.0, -1.0]),
    ("DEEPSEEK_V3_2", [0.5, 0.5], -1.0, 0.0, [0.0, 0.0]),
    ("DEEPSEEK_V3_2", [1.5, 0.5], -1.0, 1.15, [0.75, 0.0]),
]


@on_every_library
@pytest.mark.parametrize(("name", "ratios", "advantage", "value", "weights"), ANCHORS)
def test_numbers_done_by_hand(
    library: Library, name: str, ratios: list[float], advantage: float, value: float, weights: list[float]
) -> None:
    loss = core_loss(library, PRESETS[name], rows(np.log([ratios]), np.array([advantage])))
    assert_close64(loss.value, value, max(1.0, abs(value)))
    assert_within(loss.logp_grad, [weights], 4 * REL64 * np.max(np.abs(weights), initial=1e-3))


# ---- refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DualClip(0.2, 0.2, 1.0), r"^cap: expected a finite ratio above 1, got 1.0"),
        (lambda: DualClip(1.0, 0.2, 3.0), r"^low: expected a clip width in \[0, 1\), got 1.0"),
        (lambda: GateOnly(0.2, -0.1), r"^high: expected a finite clip width of at least 0, got -0.1"),
        (lambda: TruncatedWeight(0.5), r"^cap: expected a finite ratio of at least 1, got 0.5"),
        (lambda: TruncatedWeight(5.0, 1.5), r"^floor: expected a ratio in \[0, 1\], got 1.5"),
        (lambda: SoftGate(0.0, 1.0), r"^tau_pos: expected a positive finite number, got 0.0"),
        (lambda: SoftGate(1.0, math.inf), r"^tau_neg: expected a positive finite number, got inf"),
        (lambda: ReciprocalWeight(1.0, 0.2, 3.0), r"^low: expected a clip width in \[0, 1\), got 1.0"),
        (lambda: ReciprocalWeight(0.2, math.nan, 3.0), r"^high: expected a finite clip width of at least 0, got nan"),
        (lambda: ReciprocalWeight(0.2, 0.2, 1.0), r"^cap: expected a finite weight above 1, got 1.0"),
        (lambda: GammaWeight(k_neg=-1.0), r"^k_neg: expected a positive finite number, got -1.0"),
        (lambda: TokenClip(-0.1, 0.4), r"^low: expected a finite width in nats of at least 0, got -0.1"),
        (lambda: Band(math.inf), r"^width: expected a finite width in nats of at least 0, got inf"),
        (lambda: Band(0.1, 1.5), r"^length_power: expected a number in \[0, 1\], got 1.5"),
        (lambda: OffPolicyMask(math.nan), r"^delta: expected a finite width in nats of at least 0, got nan"),
        (lambda: FixedLength(0), r"^length: expected a whole number of at least 1, got 0"),
        (lambda: FixedLength(2.5), r"^length: expected a whole number of at least 1, got 2.5"),
    ],
)
def test_numbers_without_meaning_are_refused_by_name(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_class_in_place_of_a_gate_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^gate: expected a value, got the class TokenClip; write TokenClip\("):
        Objective(Sequence(), Unclipped(), SequenceMean(), TokenClip)


@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_a_floor_lifts_small_weights_and_only_them(floor: float) -> None:
    slope = TruncatedWeight(5.0, floor)(np, np.log([0.1, 2.0, 9.0]), np.ones(3)).slope
    assert_close64(slope, [max(floor, 0.1), 2.0, 5.0])
