"""Bounds: what happens to sampler weights that are too large or too small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from gspo_core._lib.array import exp_finite
from gspo_core._lib.checks import check_flag, hold_numbers
from gspo_core.types import Array, Namespace


class Verdict(NamedTuple):
    """Result of an action on raw weights, elementwise."""

    weight: Array
    """The weight after the bound."""
    kept: Array
    """Boolean: not rejected."""


class Action(Protocol):
    """Rule for weights that are too large or too small."""

    @property
    def drop(self) -> bool:
        """True if what is rejected leaves the layout."""

    def __call__(self, xp: Namespace, log_weight: Array) -> Verdict:
        """(weight, kept), elementwise."""


def log_bounds(low: float, high: float) -> tuple[float, float]:
    """(log low, log high) of a band that holds 1, so that equal policies have weight 1."""
    if not 0.0 <= low <= 1.0:
        raise ValueError(f"low: expected a weight between 0 and 1, got {low}")
    if not 1.0 <= high <= math.inf:
        raise ValueError(f"high: expected a weight of at least 1, got {high}")
    if low == 0.0 and high == math.inf:
        raise ValueError("low, high: expected a bound on at least one side, got 0 and inf, which do nothing")
    return (math.log(low) if low > 0.0 else -math.inf), math.log(high)


def _inside(log_weight: Array, low: float, high: float) -> Array:
    below, above = log_bounds(low, high)
    return (log_weight >= below) & (log_weight <= above)


@dataclass(frozen=True)
class Truncate:
    """min(max(w, low), high): nothing is rejected, a weight beyond a bound is set to it.

    0 ≤ low ≤ 1 ≤ high, one of them a real bound, else ValueError.

    >>> import numpy as np
    >>> Truncate(2.0)(np, np.log(np.array([0.25, 1.0, 8.0]))).weight.tolist()
    [0.25, 1.0, 2.0]
    """

    high: float
    """Largest weight; math.inf for none."""
    low: float = 0.0
    """Smallest weight; 0 for none."""
    drop: ClassVar[bool] = False

    def __post_init__(self) -> None:
        hold_numbers(self, "low", "high")
        log_bounds(self.low, self.high)

    def __call__(self, xp: Namespace, log_weight: Array) -> Verdict:
        """(weight, True everywhere)."""
        low, high = log_bounds(self.low, self.high)
        below, above = log_weight < low, log_weight > high
        weight, _ = exp_finite(xp, xp.where(below | above, 0.0, log_weight))
        weight = xp.where(above, self.high, xp.where(below, self.low, weight))
        return Verdict(weight, xp.ones_like(below))


@dataclass(frozen=True)
class Mask:
    """w where low ≤ w ≤ high, and 0 beyond: what is outside the band is rejected, and NaN with it.

    0 ≤ low ≤ 1 ≤ high, one of them a real bound, else ValueError.

    >>> import numpy as np
    >>> Mask(0.5, 2.0, drop=False)(np, np.log(np.array([0.25, 1.0, 8.0]))).weight.tolist()
    [0.0, 1.0, 0.0]
    """

    low: float
    """Smallest weight that is kept; 0 for none."""
    high: float
    """Largest weight that is kept; math.inf for none."""
    drop: bool
    """False: what is rejected weighs 0, and still counts in |y_i| and in denominators. True: it leaves the layout."""

    def __post_init__(self) -> None:
        hold_numbers(self, "low", "high")
        log_bounds(self.low, self.high)
        check_flag("drop", self.drop)

    def __call__(self, xp: Namespace, log_weight: Array) -> Verdict:
        """(weight, kept)."""
        kept = _inside(log_weight, self.low, self.high)
        weight, _ = exp_finite(xp, xp.where(kept, log_weight, 0.0))
        return Verdict(xp.where(kept, weight, 0.0), kept)


@dataclass(frozen=True)
class Reject:
    """1 where low ≤ w ≤ high, and 0 beyond: a filter, not a weight. NaN is rejected.

    0 ≤ low ≤ 1 ≤ high, one of them a real bound, else ValueError.

    >>> import math
    >>> import numpy as np
    >>> from array_api_compat import numpy as xp
    >>> Reject(0.5, math.inf, drop=True)(xp, np.log(np.array([0.25, 1.0, 8.0]))).weight.tolist()
    [0.0, 1.0, 1.0]
    """

    low: float
    """Smallest weight that is kept; 0 for none."""
    high: float
    """Largest weight that is kept; math.inf for none."""
    drop: bool
    """False: what is rejected weighs 0, and still counts in |y_i| and in denominators. True: it leaves the layout."""

    def __post_init__(self) -> None:
        hold_numbers(self, "low", "high")
        log_bounds(self.low, self.high)
        check_flag("drop", self.drop)

    def __call__(self, xp: Namespace, log_weight: Array) -> Verdict:
        """(1 or 0, kept)."""
        kept = _inside(log_weight, self.low, self.high)
        return Verdict(xp.astype(kept, log_weight.dtype), kept)
