"""The objective that a loss is compared with, its claims, and the log ratios that are worth trying."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np

from gspo_core.objectives.clipped_surrogates import Clip, DualClip, GateOnly
from gspo_core.objectives.gates import Band, OffPolicyMask, TokenClip
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.presets import GSPO
from gspo_core.objectives.ratios import Sequence, SequenceToken, Token

from .batch import Batch
from .claim import Claim
from .oracle import ScalarLoss, count, scalar_loss, unknown_parts


@dataclass(frozen=True)
class Setting:
    """The objective that the loss is declared to be like, and the claims of the loss."""

    like: Objective = GSPO
    claims: frozenset[Claim] = frozenset()
    _last: list[tuple[Any, ScalarLoss]] = field(default_factory=list, init=False, repr=False, compare=False)
    """The batch that the oracle was last asked about, and its answer: a law asks for the number, then for its rounding."""

    @property
    def low(self) -> float:
        """ε_low, the width of the band below 1; 0.2 if the objective has none."""
        return float(getattr(self.like.surrogate, "low", 0.2)) or 0.2

    @property
    def high(self) -> float:
        """ε_high, the width of the band above 1; 0.2 if the objective has none."""
        return float(getattr(self.like.surrogate, "high", 0.2)) or 0.2

    @property
    def log_bounds(self) -> tuple[float, float]:
        """(log(1 − ε_low), log(1 + ε_high)) of the objective; a width of 0 stays 0."""
        surrogate = self.like.surrogate
        return math.log1p(-getattr(surrogate, "low", self.low)), math.log1p(getattr(surrogate, "high", self.high))

    @property
    def scales(self) -> list[float]:
        """Sizes of token log ratios for random cases, those of the bounds among them."""
        gate = [self.like.gate.high] if isinstance(self.like.gate, TokenClip) else []
        unknown = [x for part in unknown_parts(self.like) for x in _numbers(part)]
        return [0.1, min(self.low, self.high), 1.0, 1e-3, 1e-6, *gate, *unknown]

    @property
    def limits(self) -> list[tuple[float, float]]:
        """(log ratio, sign of A) beyond which a response of one token has no gradient; the tighter of surrogate and gate."""
        gate, surrogate, found = self.like.gate, self.like.surrogate, list[tuple[float, float]]()
        if hasattr(surrogate, "low") and hasattr(surrogate, "high") and not unknown_parts(self.like):
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

    @property
    def edges(self) -> list[float]:
        """Sizes of the log ratios at which the surrogate or the gate changes its formula; all parameters of unknown parts."""
        surrogate, gate = self.like.surrogate, self.like.gate
        found = [abs(x) for x in self.log_bounds if hasattr(surrogate, "low")]
        found += [abs(math.log(x)) for x in (getattr(surrogate, name, 0.0) for name in ("cap", "floor")) if x > 0]
        found += [float(getattr(gate, name)) for name in ("low", "high", "width", "delta") if hasattr(gate, name)]
        found += [x for part in unknown_parts(self.like) for x in _numbers(part)]
        return sorted({x for x in found if 0 < x < 20})

    def expected(self, batch: Any) -> ScalarLoss:
        """The correct loss on a batch, by the scalar oracle."""
        if not (self._last and self._last[0][0] is batch):
            rows = (batch.logp.tolist(), batch.old_logp.tolist(), batch.token_advantage.tolist(), batch.mask.tolist())
            self._last[:] = [(batch, scalar_loss(self.like, *rows, batch.denominator))]
        return self._last[0][1]

    def count(self, batch: Any) -> float:
        """The batch's own count of responses or tokens, by the scalar oracle."""
        return count(self.like, batch.mask.tolist())

    def is_clear(self, batch: Any, distance: float) -> bool:
        """Whether no unit and no token starts or stops being clipped if all log ratios move together by up to `distance`."""
        if Claim.KNOWN_FORMULA not in self.claims or self._is_far(batch, distance):
            return True
        moved = (replace(batch, logp=batch.logp + step * distance) for step in (-1.0, -0.5, 0.5, 1.0))
        live = (self._live(other) for other in [*moved, batch])  # the batch itself last: laws ask for its loss next
        first = next(live)
        return all(other == first for other in live) and self._is_smooth(batch, distance)

    def _is_far(self, batch: Batch, distance: float) -> bool:
        """Whether no unit of a plain clip can reach a bound, which needs no formula: a quick answer to `is_clear`."""
        like = self.like
        if type(like.surrogate) not in (Clip, DualClip, GateOnly) or like.gate is not None or not batch.largest < 300:
            return False
        d, lengths = batch.d, np.maximum(batch.lengths, 1)
        per_token = type(like.ratio) is Token
        mean = type(like.ratio) in (Sequence, SequenceToken)
        units = d[batch.mask] if per_token else d.sum(axis=1)[batch.mask.any(axis=1)]
        units = units / lengths[batch.mask.any(axis=1)] if mean else units
        reach = distance * (1.0 if per_token or mean else float(lengths.max(initial=1)))
        bounds = [*self.log_bounds, *([math.log(like.surrogate.cap)] if isinstance(like.surrogate, DualClip) else [])]
        return bool(np.all(np.abs(units[:, None] - np.array(bounds)) > 1.001 * reach + 1e-12 * (1.0 + batch.largest)))

    def _is_smooth(self, batch: Any, distance: float) -> bool:
        """Whether no slope jumps within `distance`, for surrogates and gates without a scalar formula."""
        if not unknown_parts(self.like):
            return True
        below, above = (self.expected(replace(batch, logp=batch.logp + step * distance)) for step in (-1.0, 1.0))
        jump = np.abs(np.array(above.weight) - np.array(below.weight))
        size = max(above.scale, float(np.max(np.abs(above.weight), initial=0.0)))
        return bool(np.all(jump <= (100.0 * distance + 1e-12) * size))

    def _live(self, batch: Any) -> list[list[bool]]:
        """True for tokens with a gradient: a gate may close single tokens of a response."""
        return [[w != 0 for w in row] for row in self.expected(batch).weight]


def _numbers(part: Any) -> list[float]:
    """The parameters of a dataclass that may be bounds on a log ratio, and the logarithms of those that may be ratios."""
    found = [getattr(part, x.name) for x in fields(part)] if is_dataclass(part) else []
    sizes = [abs(float(x)) for x in found if isinstance(x, (int, float)) and 0 < abs(x) < 20]
    return sizes + [abs(math.log(x)) for x in sizes if x != 1]
