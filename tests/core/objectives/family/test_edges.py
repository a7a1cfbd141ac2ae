"""Golden anchors, not laws: numbers of every preset done by hand, on every library; and what its words refuse when built."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.budgets import REL64, assert_close64, assert_within
from support.cases import Batch, core_loss
from support.family import PRESETS
from support.libraries import NUMPY, Library, on_every_library

from gspo_core import Objective, Sequence, SequenceMean
from gspo_core.objectives import (
    Band,
    DualClip,
    FixedLength,
    GammaWeight,
    GateOnly,
    OffPolicyMask,
    ReciprocalWeight,
    SoftGate,
    TokenClip,
    TruncatedWeight,
    Unclipped,
)

DTYPES = [np.float32, np.float64]


def rows(d: np.ndarray, advantage: np.ndarray) -> Batch:
    """One response per row of d, all valid; log-probs are not positive and their difference is d exactly."""
    tokens = np.repeat(advantage[:, None], d.shape[1], axis=1)
    return Batch(np.minimum(d, 0), np.minimum(-d, 0), np.ones(d.shape, dtype=bool), advantage, tokens, 0.2, 0.2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_guards_leave_no_flat_spot_where_a_method_pushes_down(dtype: type) -> None:
    """Guard: finite is not zero. For A < 0 and d = 1e6 the hard methods without a ceiling keep their weight at e^50."""
    batch = rows(np.array([[1e6]]), np.array([-1.0]))
    for name in ("GSPO", "GRPO", "GMPO", "FSPO", "LUSPO", "DEEPSEEK_V3_2"):
        weight = core_loss(NUMPY, PRESETS[name], batch, dtype=dtype).logp_grad[0, 0]
        assert_within(weight, np.exp(50.0), 8 * np.finfo(dtype).eps * np.exp(50.0))


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
    ("DPPO", [0.8, 0.9], -2.0, 0.9, [0.0, 0.9]),
    ("IPO", [0.95, 0.8], 1.0, -0.475, [-0.475, 0.0]),
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
