"""Disagreement of sampling engine and trainer over one rollout: log-probs, routes and routers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gspo_core import Clip, Objective, Packed, Padded, Sequence
from gspo_core.mismatch import Correction, ProductWeight, Truncate, mismatch_report
from gspo_core.types import Array

if TYPE_CHECKING:
    from gspo_torch import Routes

UNCORRECTED = Correction(ProductWeight(), Truncate(3e38))
"""For measuring the gap where nothing is corrected: a bound that no float32 weight goes beyond."""
REPORTED = (
    "token_noise_share",
    "log_s_noise_share",
    "noise_floor",
    "noise_floor_share",
    "clipped_by_old",
    "clipped_by_sampler",
    "gate_disagreement",
)
"""Fields of `gspo_core.MismatchReport` in the metrics."""


class Mismatch:
    """Collects the log-probs of a rollout's micro-batches, as they were at their updates, for one `mismatch_report`."""

    def __init__(self, objective: Objective) -> None:
        clip = objective.surrogate
        bounded = isinstance(objective.ratio, Sequence) and isinstance(clip, Clip) and min(clip.low, clip.high) > 0
        self._clip: Any = clip if bounded else None
        self._parts: list[tuple[Array, Padded, Array]] = []

    def add(self, logp: Array, old_logp: Array, sampler_logp: Array, advantage: Array, layout: Padded) -> None:
        """A micro-batch; token arrays and [N] advantages."""
        xp = layout.xp
        tokens = xp.stack([x[layout.mask] for x in (logp, old_logp, sampler_logp)])
        self._parts.append((tokens, layout, advantage))

    def __iadd__(self, other: Mismatch) -> Mismatch:
        self._parts += other._parts
        return self

    def row(self) -> dict[str, float]:
        """`mismatch_…` as gspo_core.MismatchReport explains them; nothing without an engine, or without a clip range of s."""
        if not self._parts or self._clip is None:
            return {}
        tokens, layouts, advantages = zip(*self._parts, strict=True)
        xp = layouts[0].xp
        lengths = xp.concat([layout.lengths() for layout in layouts])
        owner = xp.repeat(xp.arange(len(lengths)), lengths)
        logp, old, sampler = xp.concat(tokens, axis=1)
        report = mismatch_report(logp, old, sampler, xp.concat(advantages), Packed(owner, len(lengths)), self._clip)
        return {f"mismatch_{name}": float(getattr(report, name)) for name in REPORTED}


class Flips:
    """Share of slots in which the router would choose another expert than the routes have, by layer. Add them up with `+`."""

    def __init__(self, away: Any = None, tokens: int = 0) -> None:
        self._away, self._tokens = away, tokens

    def __add__(self, other: Flips) -> Flips:
        away = [part for part in (self._away, other._away) if part is not None]
        return Flips(sum(away[1:], away[0]) if away else None, self._tokens + other._tokens)

    def add(self, routes: Routes, own: Routes) -> None:
        """A micro-batch: its routes, and what the router itself chooses."""
        tokens = int((routes.routed & own.routed).sum())
        away = tokens * routes.flips(own).double()
        self._away = away if self._away is None else self._away + away
        self._tokens += tokens

    def shares(self) -> list[float] | None:
        """[layers]; None if nothing was added."""
        return None if self._away is None else [round(share / max(1, self._tokens), 6) for share in self._away.tolist()]
