"""Variants that are one line, or one dataclass of ten: value and weight are the formula of their row in docs/family.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given
from support.cases import Batch, batches, core_loss
from support.libraries import NUMPY

from gspo_core import Clip, Objective, SequenceToken, Token, TokenMean
from gspo_core.objectives import DualClip, LogGain


class Tokens(NamedTuple):
    """What a response adds to the sum over tokens: gains, and the weights on ∇log π."""

    gains: list[float]
    weights: list[float]


def clipped(x: float, a: float, low: float, high: float) -> tuple[float, float]:
    """min(r A, clip(r) A) at log r = x, and r A where it moves."""
    r = math.exp(x)
    shut = (a > 0 and r > 1 + high) or (a < 0 and r < 1 - low)
    return min(r * a, min(max(r, 1 - low), 1 + high) * a), 0.0 if shut else r * a


def gspo_over_tokens(d: list[float], a: float) -> Tokens:
    """Every token has its response's ratio, and the same weight in the batch."""
    gain, weight = clipped(math.fsum(d) / len(d), a, 0.2, 0.2)
    return Tokens([gain] * len(d), [weight] * len(d))


def two_sided(d: list[float], a: float) -> Tokens:
    """GRPO's clip, and for A < 0 nothing beyond a ratio of 4."""
    beyond = [a < 0 and math.exp(x) > 4 for x in d]
    pairs = [(4 * a, 0.0) if z else clipped(x, a, 0.2, 0.2) for x, z in zip(d, beyond, strict=True)]
    return Tokens([g for g, _ in pairs], [w for _, w in pairs])


def log_gain(d: list[float], a: float) -> Tokens:
    """A log w inside [1/1.3, 1.3], nothing outside."""
    inside = [1 / 1.3 <= math.exp(x) <= 1.3 for x in d]
    return Tokens([a * x if z else 0.0 for x, z in zip(d, inside, strict=True)], [a if z else 0.0 for z in inside])


VARIANTS: dict[str, tuple[Objective, Callable[[list[float], float], Tokens]]] = {
    "AReaL, sequence level": (Objective(SequenceToken(), Clip(0.2, 0.2), TokenMean()), gspo_over_tokens),
    "INTELLECT-2": (Objective(Token(), DualClip(0.2, 0.2, 4.0), TokenMean()), two_sided),
    "Trinity-RFT sppo": (Objective(Token(), LogGain(0.3), TokenMean()), log_gain),
}


@pytest.mark.parametrize("name", VARIANTS)
@given(batch=batches(edges=False, max_tokens=5))
def test_value_and_weight_are_those_of_the_row(name: str, batch: Batch) -> None:
    """A mean over the tokens of the batch, one response after the other."""
    objective, formula = VARIANTS[name]
    n, weight, gains = max(1, int(batch.mask.sum())), np.zeros(batch.mask.shape), []
    for i, row in enumerate(batch.mask):
        where = np.flatnonzero(row)
        d = [float(batch.logp[i, t] - batch.old_logp[i, t]) for t in where]
        assume(max(map(abs, d), default=0.0) < 49.0)
        if d:
            found = formula(d, float(batch.advantage[i]))
            gains += found.gains
            weight[i, where] = found.weights
    loss = core_loss(NUMPY, objective, batch)
    np.testing.assert_allclose(loss.logp_grad, -weight / n, rtol=1e-10, atol=1e-300)
    size = math.fsum(map(abs, gains))
    assert math.isclose(float(loss.value), -math.fsum(gains) / n, rel_tol=1e-10, abs_tol=1e-12 * (1 + size))
