"""Surrogates without a hard edge: weights that shrink or are truncated instead of being cut to zero.

Three of them are published as a weight alone: ∇J = E[W(s) A ∇log π] with W held constant, so that no function of the
log ratio need have that slope (`exact` is False). Their value here is W(s) A, the same estimate applied to the advantage
itself: where W is a truncated importance weight, value and weight are the truncated estimates of E_π[A] and of its
gradient. The printed losses have W A log π instead, a number with the same gradient and no meaning of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from gspo_core._lib.array import EXP_CAP, exp_finite
from gspo_core._lib.checks import hold_numbers
from gspo_core.types import Array, Gain, Namespace


def _positive(surrogate: Any, *names: str) -> None:
    hold_numbers(surrogate, *names)
    for name in names:
        if not 0.0 < getattr(surrogate, name) < math.inf:
            raise ValueError(f"{name}: expected a positive finite number, got {getattr(surrogate, name)}")


def _by_sign(xp: Namespace, advantage: Array, positive: float, negative: float) -> Array:
    return xp.where(advantage < 0, negative, xp.full_like(advantage, positive))


@dataclass(frozen=True)
class SoftGate:
    """A gate that closes smoothly: gain A · (4/τ) σ(τ (w − 1)), slope A · w sech²(τ (w − 1)/2).

    On policy the slope is A, as without a gate; far from it, on either side, it falls to 0 instead of being cut.
    τ is `tau_pos` for A > 0 and `tau_neg` for A < 0: a larger one closes sooner.

    Both positive and finite, else ValueError. Source: SAPO, arXiv 2511.20347, τ 1.0 and 1.05.

    >>> import numpy as np
    >>> SoftGate(1.0, 1.05)(np, np.zeros(1), np.array([1.0])).slope.tolist()
    [1.0]
    """

    exact: ClassVar[bool] = True

    tau_pos: float = 1.0
    """Temperature for A > 0."""
    tau_neg: float = 1.05
    """Temperature for A < 0."""

    def __post_init__(self) -> None:
        _positive(self, "tau_pos", "tau_neg")

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(gain, slope), elementwise."""
        tau = _by_sign(xp, advantage, self.tau_pos, self.tau_neg)
        ratio, ratio_slope = exp_finite(xp, log_ratio)
        z = tau * (ratio - 1.0)
        small = xp.exp(0.0 - xp.abs(z))  # σ and sech² from e^−|z|, which cannot overflow
        four = 4.0 * small
        sigmoid = xp.where(z < 0, four, 4.0) / (1.0 + small)  # 4σ: with the 4 at the advantage, one of 1e38 would overflow
        gate = four / ((1.0 + small) * (1.0 + small))
        return Gain(advantage * (1.0 / tau) * sigmoid, advantage * gate * ratio_slope)


@dataclass(frozen=True)
class TruncatedWeight:
    """The importance weight is clipped, no token is dropped: weight W A with W = min(max(w, floor), cap), held constant.

    Value W A (see the module). `cap` at least 1 and finite, `floor` in [0, 1], else ValueError. Source: CISPO,
    arXiv 2506.13585, eq. 4-5, used with an upper bound only; cap 5 is that of ScaleRL, arXiv 2510.13786.

    >>> import numpy as np
    >>> TruncatedWeight(5.0)(np, np.log(np.array([2.0, 9.0])), np.array([1.0, -1.0])).slope.round(6).tolist()
    [2.0, -5.0]
    """

    exact: ClassVar[bool] = False

    cap: float
    """Largest weight, a ratio."""
    floor: float = 0.0
    """Smallest weight, a ratio; 0 is none."""

    def __post_init__(self) -> None:
        hold_numbers(self, "cap", "floor")
        if not 1.0 <= self.cap < math.inf:
            raise ValueError(f"cap: expected a finite ratio of at least 1, got {self.cap}")
        if not 0.0 <= self.floor <= 1.0:
            raise ValueError(f"floor: expected a ratio in [0, 1], got {self.floor}")

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(W A, W A), elementwise."""
        bounded = xp.where(log_ratio > math.log(self.cap), math.log(self.cap), log_ratio)
        if self.floor > 0:
            bounded = xp.where(bounded < math.log(self.floor), math.log(self.floor), bounded)
        weight = advantage * exp_finite(xp, bounded)[1]
        return Gain(weight, weight)


@dataclass(frozen=True)
class ReciprocalWeight:
    """Good tokens that have become rarer weigh more, not less: weight A · min(1/w, cap) for A > 0.

    For A < 0 the weight is A · min(w, cap). Beyond Clip's bounds (A > 0 and w > 1 + high, A < 0 and w < 1 − low) the
    weight is 0 and the value stays at the bound; the cap keeps the gradient ("soft dual clip"). Weights are held constant,
    the value is W A (see the module).

    `low` in [0, 1), `high` ≥ 0 and finite, `cap` above 1 and finite, else ValueError. Source: ASPO, arXiv 2510.06062.

    >>> import numpy as np
    >>> ReciprocalWeight(0.2, 0.2, 3.0)(np, np.log(np.array([0.5, 2.0])), np.array([1.0, 1.0])).slope.round(6).tolist()
    [2.0, 0.0]
    """

    exact: ClassVar[bool] = False

    low: float
    """Width below 1, a ratio (not nats)."""
    high: float
    """Width above 1, a ratio (not nats)."""
    cap: float
    """Largest weight."""

    def __post_init__(self) -> None:
        hold_numbers(self, "low", "high", "cap")
        if not 0.0 <= self.low < 1.0:
            raise ValueError(f"low: expected a clip width in [0, 1), got {self.low}")
        if not 0.0 <= self.high < math.inf:
            raise ValueError(f"high: expected a finite clip width of at least 0, got {self.high}")
        if not 1.0 < self.cap < math.inf:
            raise ValueError(f"cap: expected a finite weight above 1, got {self.cap}")

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(W A, W A or 0), elementwise."""
        above = (advantage > 0) & (log_ratio > math.log1p(self.high))
        below = (advantage < 0) & (log_ratio < math.log1p(-self.low))
        log_weight = xp.where(advantage > 0, 0.0 - log_ratio, log_ratio)
        log_weight = xp.where(log_weight > math.log(self.cap), math.log(self.cap), log_weight)
        weight = advantage * exp_finite(xp, log_weight)[1]
        value = xp.where(below, advantage * (1.0 - self.low), weight)
        value = xp.where(above, advantage / (1.0 + self.high), value)
        return Gain(value, xp.where(above | below, 0.0, weight))


@dataclass(frozen=True)
class GammaWeight:
    """An importance weight that is reshaped: W = φ(ρ) = ρ^k exp(λ (1 − ρ)), held constant; value W A (see the module).

    φ(1) = 1, φ is largest at ρ = k/λ and falls to 0 at both ends, so that a weight without a length normalisation stays
    bounded. (k, λ) is one pair for A ≥ 0 and another for A < 0.

    All positive and finite, else ValueError. Source: VESPO, arXiv 2602.10693, (2, 3) and (3, 2).

    >>> import numpy as np
    >>> GammaWeight()(np, np.log(np.array([1.0, 2 / 3])), np.array([1.0, 1.0])).slope.round(3).tolist()
    [1.0, 1.208]
    """

    exact: ClassVar[bool] = False

    k_pos: float = 2.0
    """Exponent for A ≥ 0."""
    lam_pos: float = 3.0
    """Decay for A ≥ 0."""
    k_neg: float = 3.0
    """Exponent for A < 0."""
    lam_neg: float = 2.0
    """Decay for A < 0."""

    def __post_init__(self) -> None:
        _positive(self, "k_pos", "lam_pos", "k_neg", "lam_neg")

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(W A, W A), elementwise."""
        k = _by_sign(xp, advantage, self.k_pos, self.k_neg)
        lam = _by_sign(xp, advantage, self.lam_pos, self.lam_neg)
        bounded = xp.where(log_ratio > EXP_CAP, EXP_CAP, log_ratio)  # in both terms: ∞ − ∞ otherwise
        log_weight = k * bounded - lam * xp.expm1(bounded)
        # Below k log(k/λ) + λ − k everywhere; the cap only matters for parameters far from any in use.
        weight = advantage * exp_finite(xp, log_weight)[1]
        return Gain(weight, weight)
