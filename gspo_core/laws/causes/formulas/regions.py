"""Suspects of trust regions in probabilities: another side, the ratio in place of probabilities, other edges."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.subject import Subject
from gspo_core.objectives.regions import BinaryKL, TotalVariation
from gspo_core.types import Array, Gated, Layout

REGIONS = (TotalVariation, BinaryKL)
HALF = math.log(0.5)


@dataclass(frozen=True)
class OnTheRatio:
    """Tokens whose ratio leaves [1 − low, 1 + high] on the advantage's side are taken away."""

    low: float
    high: float

    def __call__(self, d: Array, advantage: Array, layout: Layout, per_token: bool) -> Gated:
        """One response, as the kit evaluates gates that it does not know."""
        out = ((advantage > 0) & (np.expm1(d) > self.high)) | ((advantage < 0) & (np.expm1(d) < -self.low))
        return Gated(d, np.where(out, 0.0, advantage), layout.valid & ~out)


@dataclass(frozen=True)
class Backwards:
    """Tokens outside a region are taken away if their advantage pushes them back into it."""

    region: Any
    sees_log_probs: ClassVar[bool] = True

    def __call__(self, d: Array, advantage: Array, layout: Layout, per_token: bool, *, logp: Array, old_logp: Array) -> Gated:
        """One response, as the kit evaluates gates that it does not know."""
        above, below = self.region.left(np, logp, old_logp)
        out = (above & (advantage < 0)) | (below & (advantage > 0))
        return Gated(d, np.where(out, 0.0, advantage), layout.valid & ~out)


def sides(gate: Any) -> list[tuple[str, Any]]:
    """The region with the other rule of sides, and the bounds applied to the ratio: (what is wrong, the gate)."""
    when = "only where its advantage pushes it outwards" if gate.either_side else "whatever its advantage"
    return [
        (f"a token outside the trust region is taken away {when}", replace(gate, either_side=not gate.either_side)),
        ("a token outside the trust region is taken away where its advantage pushes it back", Backwards(gate)),
        ("the trust region compares the ratio π/π_old, not the probabilities", OnTheRatio(gate.low, gate.high)),
    ]


def edges(subject: Subject, gate: Any) -> list[tuple[str, Any]]:
    """The region with the edges at which the loss of a token with π_old = ½ becomes 0: (what is wrong, the gate)."""
    found = {"low": _edge(subject, gate, -1.0), "high": _edge(subject, gate, 1.0)}
    other = {name: x for name, x in found.items() if x is not None and abs(x - getattr(gate, name)) > 1e-6}
    if not other:
        return []
    values = sorted({f"{x:.6g}" for x in other.values()})
    owns = sorted({f"{getattr(gate, name):.6g}" for name in other})
    names = f"{' and '.join(other)} of the gate {'are' if len(other) > 1 else 'is'}"
    return [(f"{names} {' and '.join(values)}, not {' and '.join(owns)}", replace(gate, **other))]


def _edge(subject: Subject, gate: Any, sign: float) -> float | None:
    """The size of the move of a token's probability, as the region measures it, from which on the token has no loss."""

    def has_loss(move: float) -> bool:
        new = np.array([[math.log(0.5 + sign * move)]])
        batch = Batch(new, np.array([[HALF]]), np.array([sign]), np.array([[True]]))
        return subject(batch).value != 0.0

    low, high = 0.0, 0.499
    if has_loss(high) or not has_loss(low):
        return None
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if has_loss(middle) else (low, middle)
    if isinstance(gate, TotalVariation):
        return float(f"{high:.9g}")
    q = 0.5 + sign * high
    return float(f"{0.5 * math.log(0.5 / q) + 0.5 * math.log(0.5 / (1.0 - q)):.9g}")
