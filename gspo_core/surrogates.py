"""Surrogates: what is maximised for one unit, as a gain and its slope with respect to the log ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ._array import exp_finite
from .types import Array, Gain, Namespace


@dataclass(frozen=True)
class Clip:
    """The clipped surrogate min(s A, clip(s, 1 − low, 1 + high) A).

    Only one bound can matter: for A > 0 the gain is A · min(s, 1 + high), for A < 0 it is A · max(s, 1 − low). The slope
    is s A where the unit is live and 0 where it is clipped; at s exactly on a bound it is live. Compared in log space,
    log s against log(1 + high) and log(1 − low), which keeps ranges of 3e-4 exact in float32.

    Beyond log s = 50 (only reachable for A < 0) s is continued linearly in log s, so that value and slope stay finite.

    `low` in [0, 1), `high` ≥ 0 and finite, else ValueError. Source: PPO, arXiv 1707.06347, eq. 7; GSPO, arXiv
    2507.18071, eq. 5, which uses two sides (section 5.1).

    >>> import numpy as np
    >>> Clip(0.2, 0.3)(np, np.log(np.array([2.0, 2.0])), np.array([1.0, -1.0])).value.round(6).tolist()
    [1.3, -2.0]
    """

    low: float
    """Width below 1, a ratio (not nats)."""
    high: float
    """Width above 1, a ratio (not nats)."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.low < 1.0:
            raise ValueError(f"low: expected a clip width in [0, 1), got {self.low}")
        if not 0.0 <= self.high < math.inf:
            raise ValueError(f"high: expected a finite clip width of at least 0, got {self.high}")

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(gain, slope), elementwise."""
        above = (advantage > 0) & (log_ratio > math.log1p(self.high))
        below = (advantage < 0) & (log_ratio < math.log1p(-self.low))
        ratio, ratio_slope = exp_finite(xp, log_ratio)
        value = xp.where(above, advantage * (1.0 + self.high), advantage * ratio)
        value = xp.where(below, advantage * (1.0 - self.low), value)
        return Gain(value, xp.where(above | below, 0.0, advantage * ratio_slope))
