"""Suspects of the ratio's formula: a first-order approximation, a number added to it, or limits before the clip."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.setting import Setting
from gspo_core.objectives.clipped_surrogates import Clip
from gspo_core.objectives.loss import Objective
from gspo_core.types import Array, Gain, Namespace


@dataclass(frozen=True)
class OtherRatio:
    """min(r A, clip(r) A) of another function r of the log ratio."""

    exact: ClassVar[bool] = True

    low: float
    high: float
    ratio: Callable[[Namespace, Array], Array]
    slope: Callable[[Namespace, Array], Array]
    """dr/d(log ratio)."""

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(gain, slope), elementwise."""
        r = self.ratio(xp, log_ratio)
        shut = xp.where(advantage > 0, r > 1 + self.high, r < 1 - self.low) & (advantage != 0)
        held = xp.minimum(xp.maximum(r, 1 - self.low), 1 + self.high)
        return Gain(xp.minimum(r * advantage, held * advantage), xp.where(shut, 0.0, self.slope(xp, log_ratio) * advantage))


def _exp(xp: Namespace, x: Array) -> Array:
    return xp.exp(x)


def _line(xp: Namespace, x: Array) -> Array:
    return 1.0 + x


def _one(xp: Namespace, x: Array) -> Array:
    return xp.ones_like(x)


def _with(own: Clip, ratio: Callable[..., Array], slope: Callable[..., Array]) -> Callable[[Objective], Objective]:
    return lambda objective: replace(objective, surrogate=OtherRatio(own.low, own.high, ratio, slope))


def approximations(setting: Setting, value: float) -> list[Suspect]:
    """All suspects; `value` is the loss of one token on policy, relative to the formula."""
    own, more = setting.like.surrogate, value - 1.0
    if not isinstance(own, Clip):
        return []
    words = "the ratio is 1 + log(π/π_old), the first terms of its series"
    found = [Suspect(words, "take exp of the log ratio", _with(own, _line, _one))]
    if math.isfinite(more) and 1e-9 < abs(more) < 0.5:

        def shifted(xp: Namespace, x: Array) -> Array:
            return xp.exp(x) + more

        words = f"{more:.6g} is added to the ratio"
        found.append(Suspect(words, "use exp of the log ratio as it is", _with(own, shifted, _exp)))
    return found
