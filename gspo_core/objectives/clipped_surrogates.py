"""Surrogates with a hard edge: the gain of one unit and its slope with respect to the log ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gspo_core._lib.array import exp_finite
from gspo_core._lib.checks import hold_numbers
from gspo_core.types import Array, Gain, Namespace


def _check_widths(surrogate: Clip | DualClip | GateOnly) -> None:
    hold_numbers(surrogate, "low", "high")
    if not 0.0 <= surrogate.low < 1.0:
        raise ValueError(f"low: expected a clip width in [0, 1), got {surrogate.low}")
    if not 0.0 <= surrogate.high < math.inf:
        raise ValueError(f"high: expected a finite clip width of at least 0, got {surrogate.high}")


@dataclass(frozen=True)
class Unclipped:
    """The importance-weighted advantage s A, with no edge of its own: for an ablation, or behind a gate that has one.

    Beyond log s = 50 s is continued linearly in log s, so that value and slope stay finite.

    >>> import numpy as np
    >>> Unclipped()(np, np.log(np.array([2.0])), np.array([-3.0])).slope.round(6).tolist()
    [-6.0]
    """

    exact: ClassVar[bool] = True

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(s A, s A), elementwise."""
        ratio, ratio_slope = exp_finite(xp, log_ratio)
        return Gain(advantage * ratio, advantage * ratio_slope)


@dataclass(frozen=True)
class Clip:
    """The clipped surrogate min(s A, clip(s, 1 − low, 1 + high) A).

    Only one bound can matter: for A > 0 the gain is A · min(s, 1 + high), for A < 0 it is A · max(s, 1 − low). The slope
    is s A where the unit is live and 0 where it is clipped; at s exactly on a bound it is live. Compared in log space,
    log s against log(1 + high) and log(1 − low), which keeps ranges of 3e-4 exact in float32.

    Beyond log s = 50 (only reachable for A < 0) s is continued linearly in log s, so that value and slope stay finite.

    `low` in [0, 1), `high` ≥ 0 and finite, else ValueError; TypeError for what is no number. Source: PPO, arXiv 1707.06347,
    eq. 7; GSPO, arXiv 2507.18071, eq. 5, which uses two sides (section 5.1).

    >>> import numpy as np
    >>> Clip(0.2, 0.3)(np, np.log(np.array([2.0, 2.0])), np.array([1.0, -1.0])).value.round(6).tolist()
    [1.3, -2.0]
    """

    exact: ClassVar[bool] = True

    low: float
    """Width below 1, a ratio (not nats)."""
    high: float
    """Width above 1, a ratio (not nats)."""

    def __post_init__(self) -> None:
        _check_widths(self)

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(gain, slope), elementwise."""
        above = (advantage > 0) & (log_ratio > math.log1p(self.high))
        below = (advantage < 0) & (log_ratio < math.log1p(-self.low))
        ratio, ratio_slope = exp_finite(xp, log_ratio)
        seen = xp.where(below, 1.0 - self.low, xp.where(above, 1.0 + self.high, ratio))
        return Gain(advantage * seen, xp.where(above | below, 0.0, advantage * ratio_slope))


@dataclass(frozen=True)
class DualClip:
    """Clip with a ceiling on the loss of a bad unit: for A < 0 the gain is A · min(max(s, 1 − low), cap).

    Clip alone leaves the loss −A s unbounded as s grows. Here it is at most cap · |A|, and beyond s = cap the slope is 0;
    on the cap it is live. A > 0 is as in Clip.

    `low` and `high` as in Clip, `cap` above 1 and finite, else ValueError. Source: D. Ye et al., arXiv 1912.09729, with
    cap = 3.

    >>> import numpy as np
    >>> DualClip(0.2, 0.2, 3.0)(np, np.log(np.array([2.0, 9.0])), np.array([-1.0, -1.0])).value.round(6).tolist()
    [-2.0, -3.0]
    """

    exact: ClassVar[bool] = True

    low: float
    """Width below 1, a ratio (not nats)."""
    high: float
    """Width above 1, a ratio (not nats)."""
    cap: float
    """Largest ratio that a unit with A < 0 pays for."""

    def __post_init__(self) -> None:
        _check_widths(self)
        hold_numbers(self, "cap")
        if not 1.0 < self.cap < math.inf:
            raise ValueError(f"cap: expected a finite ratio above 1, got {self.cap}")

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(gain, slope), elementwise."""
        value, slope = Clip(self.low, self.high)(xp, log_ratio, advantage)
        capped = (advantage < 0) & (log_ratio > math.log(self.cap))
        return Gain(xp.where(capped, advantage * self.cap, value), xp.where(capped, 0.0, slope))


@dataclass(frozen=True)
class GateOnly:
    """The gate of Clip without its weight: the slope is A where Clip is live, not s A, and 0 where Clip is clipped.

    The gain is A · (1 + min(log s, log(1 + high))) for A > 0 and A · (1 + max(log s, log(1 − low))) for A < 0: Clip to
    first order around s = 1. Inside a band of ±4e-4 the slopes differ by at most 0.04 %, so this tells apart what the gate
    does and what the importance weight does. There is nothing that could overflow.

    `low` and `high` as in Clip, else ValueError. An ablation of GSPO, arXiv 2507.18071, eq. 10, not from a paper.

    >>> import numpy as np
    >>> GateOnly(0.2, 0.3)(np, np.log(np.array([0.5, 2.0])), np.array([1.0, 1.0])).slope.tolist()
    [1.0, 0.0]
    """

    exact: ClassVar[bool] = True

    low: float
    """Width below 1, a ratio (not nats)."""
    high: float
    """Width above 1, a ratio (not nats)."""

    def __post_init__(self) -> None:
        _check_widths(self)

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(gain, slope), elementwise."""
        log_high, log_low = math.log1p(self.high), math.log1p(-self.low)
        above = (advantage > 0) & (log_ratio > log_high)
        below = (advantage < 0) & (log_ratio < log_low)
        seen = xp.where(below, log_low, xp.where(above, log_high, log_ratio))
        return Gain(advantage * (1.0 + seen), xp.where(above | below, 0.0, advantage))
