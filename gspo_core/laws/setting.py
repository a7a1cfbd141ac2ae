"""What the laws are told about the loss under test besides its claims: the numbers, and how it may be called."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gspo_core.gates import TokenClip
from gspo_core.objective import Objective
from gspo_core.presets import GSPO

from .claim import Claim
from .oracle import Verdict, count, judge


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
        return [0.1, min(self.low, self.high), 1.0, 1e-3, 1e-6, *gate]

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
        return all(self._live(other) == base for other in moved)

    def _live(self, batch: Any) -> list[list[bool]]:
        """Which tokens have a gradient: a gate may close single tokens of a response that is live as a whole."""
        return [[w != 0 for w in row] for row in self.verdict(batch).weight]
