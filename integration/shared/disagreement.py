"""How far apart sampler and trainer are, and routes and routers, over one rollout."""

from __future__ import annotations

from typing import Any

from gspo_torch import Routes
from torch import Tensor

from gspo_core import Padded, merge, sampler_weight, summary
from gspo_core.metrics import Metrics, sampler_metrics
from gspo_core.mismatch import Correction, ProductWeight, Truncate

UNCORRECTED = Correction(ProductWeight(), Truncate(2.0))
"""What measures the engines' gap where nothing is corrected; of its numbers only the raw ones are reported then."""


class Flips:
    """Share of slots in which the router would choose another expert than the routes have, by layer."""

    def __init__(self) -> None:
        self._away: Tensor | None = None
        self._tokens = 0

    def add(self, routes: Routes, own: Routes) -> None:
        """A micro-batch: its routes, and what the router itself chooses."""
        tokens = int((routes.routed & own.routed).sum())
        away = tokens * routes.flips(own).double()
        self._away = away if self._away is None else self._away + away
        self._tokens += tokens

    def shares(self) -> list[float] | None:
        """[layers]; None if nothing was added. Starts again."""
        away, tokens = self._away, self._tokens
        self._away, self._tokens = None, 0
        return None if away is None else [round(share / max(1, tokens), 6) for share in away.tolist()]


class Gap:
    """How far the sampling engine is from the trainer, over the responses that are run: those with an advantage."""

    def __init__(self, correction: Correction | None) -> None:
        self._correction = correction
        self._metrics: Metrics | None = None
        self._sum = self._squares = 0.0
        self._units = 0

    def add(self, old_logp: Tensor, sampler_logp: Tensor, layout: Padded) -> None:
        """A micro-batch."""
        correction = self._correction or UNCORRECTED
        measured = sampler_metrics(correction, old_logp, sampler_logp, layout)
        self._metrics = measured if self._metrics is None else merge(self._metrics, measured)
        found: Any = sampler_weight(correction, old_logp, sampler_logp, layout)
        weight = (found.raw if self._correction is None else found.weight).double()
        self._sum, self._squares = self._sum + float(weight.sum()), self._squares + float((weight * weight).sum())
        self._units += int((layout.valid if correction.level.per_token else layout.lengths() > 0).sum())

    def row(self) -> dict[str, float]:
        """`sampler_…` as gspo_core.summary explains them, and sampler_ess, the effective share (Σ w)² / (n Σ w²)."""
        if self._metrics is None:
            return {}
        numbers = {k: v for k, v in summary(self._metrics).items() if k.startswith("sampler_")}
        if self._correction is None:
            for name in ("weight_mean", "weight_max", "truncated", "rejected"):
                numbers.pop(f"sampler_{name}", None)
        ess = self._sum**2 / (self._units * self._squares) if self._squares else 0.0
        return numbers | {"sampler_ess": ess}
