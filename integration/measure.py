"""What one rollout's updates did: clip fractions, log s, gradient norms, as one line of metrics."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gspo_core import Loss, Padded, Sequence
from gspo_core.objective import token_log_ratio


class Rollup:
    """Collects micro-batches and optimizer steps of one rollout."""

    def __init__(self) -> None:
        self._low: list[Tensor] = []
        self._high: list[Tensor] = []
        self._log_s: list[Tensor] = []
        self._by_step: list[dict[str, float]] = []
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._skipped = 0
        self._fresh = 0

    def add_loss(self, loss: Loss, logp: Tensor, old_logp: Tensor, layout: Padded) -> None:
        """A micro-batch. Clipped units are counted among all units: sequences for GSPO, tokens for token-level ratios."""
        units = layout.valid if loss.log_ratio.ndim == 2 else layout.lengths() > 0
        clipped, log_ratio = loss.clipped[units], loss.log_ratio[units]
        self._low.append((clipped & (log_ratio < 0)).float())
        self._high.append((clipped & (log_ratio > 0)).float())
        self._log_s.append(Sequence().log_ratio(token_log_ratio(logp, old_logp, layout), layout)[layout.lengths() > 0])
        self._losses.append(float(loss.value.detach()))
        self._fresh += 1

    def add_step(self, grad_norm: float, *, skipped: bool) -> None:
        """An optimizer step over the micro-batches added since the last one."""
        recent = slice(len(self._low) - self._fresh, None)
        log_s = torch.cat(self._log_s[recent])
        self._by_step.append(
            {
                "clip_fraction": float(torch.cat(self._low[recent]).mean() + torch.cat(self._high[recent]).mean()),
                "log_s_rms": float(log_s.square().mean().sqrt()),
            }
        )
        self._fresh = 0
        self._norms.append(grad_norm)
        self._skipped += skipped

    def row(self) -> dict[str, Any]:
        """The rollout as plain numbers; `log_s` lists every sequence once, in nats per token."""
        log_s = torch.cat(self._log_s)
        low, high = float(torch.cat(self._low).mean()), float(torch.cat(self._high).mean())
        finite = [norm for norm in self._norms if math.isfinite(norm)]
        return {
            "loss": sum(self._losses) / len(self._norms),
            "clip_fraction": low + high,
            "clip_low": low,
            "clip_high": high,
            "log_s_mean": float(log_s.mean()),
            "log_s_std": float(log_s.std(correction=0)),
            "max_abs_log_s": float(log_s.abs().max()),
            "grad_norm": sum(finite) / len(finite) if finite else None,
            "skipped_steps": self._skipped,
            "by_mini_batch": self._by_step,
            "log_s": [round(float(x), 7) for x in log_s],
        }
