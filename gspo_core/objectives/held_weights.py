"""Importance weights that are held constant, truncated on one side of A or masked by the current ratio; and no weight at all.

As those of `soft_surrogates`, the first two are published as a weight alone; the value is W A, and `exact` is False.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gspo_core._lib.array import exp_finite
from gspo_core._lib.checks import hold_numbers
from gspo_core.types import Array, Gain, Namespace


@dataclass(frozen=True)
class BandWeight:
    """The importance weight inside a band, nothing outside: weight w A · 1[floor ≤ w ≤ cap], for either sign of A.

    A mask of the current ratio π/π_old, with the sampler's log-probs as π_old of π/π_sampler. Value W A.

    `floor` in (0, 1) and `cap` above 1 and finite, else ValueError. Source: SkyRL's policy loss "rollout_is".

    >>> import numpy as np
    >>> BandWeight(0.5, 5.0)(np, np.log(np.array([0.25, 2.0, 9.0])), np.array([1.0, -1.0, 1.0])).slope.round(6).tolist()
    [0.0, -2.0, 0.0]
    """

    exact: ClassVar[bool] = False

    floor: float
    """Smallest weight that is kept, a ratio."""
    cap: float
    """Largest weight that is kept, a ratio."""

    def __post_init__(self) -> None:
        hold_numbers(self, "floor", "cap")
        if not 0.0 < self.floor < 1.0:
            raise ValueError(f"floor: expected a ratio in (0, 1), got {self.floor}")
        if not 1.0 < self.cap < math.inf:
            raise ValueError(f"cap: expected a finite ratio above 1, got {self.cap}")

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(W A, W A), elementwise."""
        outside = (log_ratio < math.log(self.floor)) | (log_ratio > math.log(self.cap))
        weight = xp.where(outside, 0.0, advantage * exp_finite(xp, log_ratio)[1])
        return Gain(weight, weight)


@dataclass(frozen=True)
class TaperedWeight:
    """Good samples count in full, bad ones by a truncated importance weight: A for A > 0, min(w, cap) A for A < 0.

    Value W A: a bad answer that the policy no longer gives is not unlearnt further, a good one is always learnt.

    `cap` positive and finite, else ValueError. Source: TOPR, arXiv 2503.14286, cap 1; as a weight per token in ROLL.

    >>> import numpy as np
    >>> TaperedWeight(1.0)(np, np.log(np.array([0.5, 0.5, 2.0])), np.array([1.0, -1.0, -1.0])).slope.round(6).tolist()
    [1.0, -0.5, -1.0]
    """

    exact: ClassVar[bool] = False

    cap: float = 1.0
    """Largest weight of a bad sample, a ratio."""

    def __post_init__(self) -> None:
        hold_numbers(self, "cap")
        if not 0.0 < self.cap < math.inf:
            raise ValueError(f"cap: expected a positive finite ratio, got {self.cap}")

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(W A, W A), elementwise."""
        bounded = xp.where(log_ratio > math.log(self.cap), math.log(self.cap), log_ratio)
        weight = xp.where(advantage > 0, advantage, advantage * exp_finite(xp, bounded)[1])
        return Gain(weight, weight)


@dataclass(frozen=True)
class LogGain:
    """The log ratio in place of the ratio, inside a band: A log w with slope A for 1/(1 + width) ≤ w ≤ 1 + width, else nothing.

    `width` positive and finite, else ValueError. Source: sPPO, arXiv 2108.05828, as in Trinity-RFT ("sppo", width 0.3).

    >>> import numpy as np
    >>> LogGain(0.3)(np, np.log(np.array([0.5, 1.2, 1.2])), np.array([1.0, 1.0, -1.0])).slope.tolist()
    [0.0, 1.0, -1.0]
    """

    exact: ClassVar[bool] = True

    width: float
    """Largest w or 1/w, less 1."""

    def __post_init__(self) -> None:
        hold_numbers(self, "width")
        if not 0.0 < self.width < math.inf:
            raise ValueError(f"width: expected a positive finite number, got {self.width}")

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(A log w, A) inside, (0, 0) outside, elementwise."""
        inside = xp.abs(log_ratio) <= math.log1p(self.width)
        return Gain(advantage * xp.where(inside, log_ratio, 0.0), xp.where(inside, advantage, 0.0))
