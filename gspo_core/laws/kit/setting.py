"""What the laws are told about the loss under test besides its claims: the numbers, and how it may be called."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from gspo_core.objectives.clipped_surrogates import DualClip
from gspo_core.objectives.gates import Band, OffPolicyMask, TokenClip
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.presets import GSPO

from .claim import Claim
from .oracle import Verdict, count, judge, strangers


@dataclass(frozen=True)
class Setting:
    """An objective that the loss is said to be like, and the claims."""

    like: Objective = GSPO
    claims: frozenset[Claim] = frozenset()

    @property
    def low(self) -> float:
        """Width of the band below 1; a mild 0.2 if the objective has none."""
        return float(getattr(self.like.surrogate, "low", 0.2)) or 0.2

    @property
    def high(self) -> float:
        """Width of the band above 1."""
        return float(getattr(self.like.surrogate, "high", 0.2)) or 0.2

    @property
    def log_bounds(self) -> tuple[float, float]:
        """(log(1 − low), log(1 + high)), the bounds as the objective has them, 0 included."""
        surrogate = self.like.surrogate
        return math.log1p(-getattr(surrogate, "low", self.low)), math.log1p(getattr(surrogate, "high", self.high))

    @property
    def scales(self) -> list[float]:
        """Sizes of token log ratios that are worth a try: those of the bounds among them."""
        gate = [self.like.gate.high] if isinstance(self.like.gate, TokenClip) else []
        unknown = [x for part in strangers(self.like) for x in _numbers(part)]
        return [0.1, min(self.low, self.high), 1.0, 1e-3, 1e-6, *gate, *unknown]

    @property
    def limits(self) -> list[tuple[float, float]]:
        """(log ratio of a response of one token, sign of A) where its gradient ends; the tightest of surrogate and gate."""
        gate, surrogate, found = self.like.gate, self.like.surrogate, list[tuple[float, float]]()
        if hasattr(surrogate, "low") and hasattr(surrogate, "high") and not strangers(self.like):
            found = [(math.log1p(surrogate.high), 1.0), (math.log1p(-surrogate.low), -1.0)]
        if isinstance(surrogate, DualClip):
            found.append((math.log(surrogate.cap), -1.0))
        if isinstance(gate, TokenClip):
            found += [(gate.high, 1.0), (-gate.low, -1.0)]
        if isinstance(gate, Band):
            found += [(gate.width, 1.0), (-gate.width, -1.0)]
        if isinstance(gate, OffPolicyMask):
            found.append((-gate.delta, -1.0))
        sides = {(math.copysign(1.0, x), sign) for x, sign in found}
        there = {side: [abs(x) for x, sign in found if (math.copysign(1.0, x), sign) == side] for side in sides}
        return [(side[0] * min(there[side]), side[1]) for side in sorted(sides)]

    def verdict(self, batch: Any) -> Verdict:
        """What the objective makes of a batch, by the scalar oracle."""
        rows = (batch.logp.tolist(), batch.old_logp.tolist(), batch.token_advantage.tolist(), batch.mask.tolist())
        return judge(self.like, *rows, batch.denominator)

    def count(self, batch: Any) -> float:
        """The batch's own denominator, by the scalar oracle."""
        return count(self.like, batch.mask.tolist())

    def is_clear(self, batch: Any, distance: float) -> bool:
        """No unit and no token starts or stops being clipped if all log ratios move together by up to `distance`."""
        if Claim.JUDGED not in self.claims:
            return True
        base = self._live(batch)
        moved = (batch.with_d(batch.d + step * distance) for step in (-1.0, -0.5, 0.5, 1.0))
        return all(self._live(other) == base for other in moved) and self._is_smooth(batch, distance)

    def _is_smooth(self, batch: Any, distance: float) -> bool:
        """No slope of a surrogate or gate that the oracle does not know jumps within `distance`."""
        if not strangers(self.like):
            return True
        below, above = (self.verdict(batch.with_d(batch.d + step * distance)) for step in (-1.0, 1.0))
        jump = np.abs(np.array(above.weight) - np.array(below.weight))
        size = max(above.scale, float(np.max(np.abs(above.weight), initial=0.0)))
        return bool(np.all(jump <= (100.0 * distance + 1e-12) * size))

    def _live(self, batch: Any) -> list[list[bool]]:
        """Which tokens have a gradient: a gate may close single tokens of a response that is live as a whole."""
        return [[w != 0 for w in row] for row in self.verdict(batch).weight]


def _numbers(part: Any) -> list[float]:
    """The numbers of a dataclass that may be bounds in nats, or are ratios whose logarithms may be."""
    found = [getattr(part, field.name) for field in fields(part)] if is_dataclass(part) else []
    sizes = [abs(float(x)) for x in found if isinstance(x, (int, float)) and 0 < abs(x) < 20]
    return sizes + [abs(math.log(x)) for x in sizes if x != 1]
