"""What one rollout's passes did: clip fractions, log s, gradient norms, engine and router, as one line of metrics."""

from __future__ import annotations

import math
from typing import Any

from gspo_torch import Routes
from torch import Tensor

from gspo_core import Loss, Padded, Pilot, Sequence
from gspo_core.mismatch import Correction
from gspo_core.objectives.loss import token_log_ratio
from gspo_core.types import Array
from integration.shared.disagreement import Flips, Gap


class Rollup:
    """Collects micro-batches and optimizer steps of one rollout."""

    def __init__(self, correction: Correction | None = None) -> None:
        self._low = self._high = self._units = 0
        self._loss = 0.0
        self._log_s: list[float] = []
        self._lengths: list[int] = []
        self._advantages: list[float] = []
        self._norms: list[float] = []
        self._skipped = 0
        self._by_step: list[dict[str, float]] = []
        self._fresh: list[float] = []
        self._fresh_clipped = 0
        self._gap = Gap(correction)
        self._old_flips, self._fresh_flips = Flips(), Flips()
        self._flips: list[list[float]] = []

    def add_gap(self, old_logp: Tensor, sampler_logp: Tensor, layout: Padded) -> None:
        """A micro-batch, in the pass for the old log-probs."""
        self._gap.add(old_logp, sampler_logp, layout)

    def add_flips(self, routes: Routes, own: Routes, *, updating: bool) -> None:
        """A micro-batch: the routes, and what the router itself chooses in the pass for old log-probs, or in an update."""
        (self._fresh_flips if updating else self._old_flips).add(routes, own)

    def add_loss(self, loss: Loss, logp: Array, old_logp: Array, advantage: Array, layout: Padded) -> None:
        """A micro-batch of responses that have an advantage. Arrays of PyTorch or NumPy, without gradients."""
        low = int((loss.clipped & (loss.log_ratio < 0)).sum())
        high = int((loss.clipped & (loss.log_ratio > 0)).sum())
        self._low, self._high, self._fresh_clipped = self._low + low, self._high + high, self._fresh_clipped + low + high
        there = layout.lengths() > 0
        self._fresh += Sequence().log_ratio(token_log_ratio(logp, old_logp, layout), layout)[there].tolist()
        self._lengths += layout.lengths()[there].tolist()
        self._advantages += advantage[there].tolist()
        self._loss += float(loss.value)

    def add_step(self, grad_norm: float, *, units: int, skipped: bool) -> None:
        """An optimizer step over the micro-batches since the last one, and over `units` ratios in all.

        Units are sequences for GSPO, tokens for a token-level ratio; responses without an advantage count, unclipped.
        """
        rms = math.sqrt(sum(x * x for x in self._fresh) / len(self._fresh)) if self._fresh else 0.0
        self._by_step.append({"clip_fraction": self._fresh_clipped / units, "log_s_rms": rms})
        self._log_s += self._fresh
        self._fresh, self._fresh_clipped = [], 0
        flips = self._fresh_flips.shares()
        self._flips += [] if flips is None else [flips]
        self._units += units
        self._norms.append(grad_norm)
        self._skipped += skipped

    def pilot(self, lengths: Array, advantages: Array) -> Pilot:
        """The rollout's responses, [N] lengths and advantages of all: those without an advantage have no log s, and stay."""
        still = lengths[(advantages == 0) & (lengths > 0)].tolist()
        zeros = [0.0] * len(still)
        return Pilot(self._log_s + zeros, self._lengths + still, self._advantages + zeros)

    def row(self) -> dict[str, Any]:
        """The rollout as plain numbers; `log_s` lists every response that has an advantage, in nats per token.

        `flips_engine` [layers] is the share of the sampler's slots in which the trainer's router chooses another expert,
        `flips_update` [mini-batches, layers] the same of the routes before the first update; with replay, of the routes that
        are replayed, where the layers before follow them.
        """
        count = max(1, len(self._log_s))
        mean = sum(self._log_s) / count
        finite = [norm for norm in self._norms if math.isfinite(norm)]
        flips = {"flips_engine": self._old_flips.shares(), "flips_update": self._flips or None}
        return {
            "loss": self._loss / len(self._norms),
            "clip_fraction": (self._low + self._high) / self._units,
            "clip_low": self._low / self._units,
            "clip_high": self._high / self._units,
            "log_s_mean": mean,
            "log_s_std": math.sqrt(sum((x - mean) ** 2 for x in self._log_s) / count),
            "max_abs_log_s": max((abs(x) for x in self._log_s), default=0.0),
            "grad_norm": sum(finite) / len(finite) if finite else None,
            "skipped_steps": self._skipped,
            "by_mini_batch": self._by_step,
            "log_s": [round(x, 7) for x in self._log_s],
            **self._gap.row(),
            **{name: shares for name, shares in flips.items() if shares is not None},
        }
