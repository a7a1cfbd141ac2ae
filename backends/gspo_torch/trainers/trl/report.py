"""Our metrics and the sentences of `diagnose`, in TRL's log."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from gspo_core import Objective, batch_metrics, diagnose, merge, summary
from gspo_core.metrics import Metrics, entropy_metrics, left_out_metrics, reference_metrics
from gspo_core.objectives import LinearLoss

from .batch import Batch, advantage_of, chosen, layout_of, mask_of

logger = logging.getLogger(__name__)
UNLOGGED = {
    "batches", "updates", "tokens", "on_policy", "loss_trained", "length_std", "length_min", "length_max",
    "advantage_mean", "positive", "positive_max", "not_finite_advantages", "log_s_q01", "log_s_q25", "log_s_q75",
    "log_s_q99", "abs_log_s_q50", "abs_log_s_q95", "unlikeness",
}  # fmt: skip
"""Names of `summary` that would make TRL's log longer without saying much; `diagnose` reads them all the same."""


class Report:
    """Metrics since the last line of the log, of training and of evaluation."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.parts: dict[bool, list[Metrics]] = {True: [], False: []}
        self._said: set[str] = set()

    def add(self, training: bool, loss: LinearLoss, batch: Batch, ran: Tensor | None) -> None:
        """A micro-batch: its loss on the rows that ran, None for all."""
        part = batch if ran is None else chosen(batch, ran)
        layout, old = layout_of(self.objective, part), part.get("old_per_token_logps")
        found = [batch_metrics(self.objective, loss, loss.logp, old, advantage_of(self.objective, part), layout)]
        if loss.entropy is not None:
            found.append(entropy_metrics(loss.entropy, layout))
        if "ref_per_token_logps" in part:
            found.append(reference_metrics(loss.logp, part["ref_per_token_logps"], layout))
        if ran is not None and len(ran) < len(mask_of(batch)):
            others = torch.ones(len(mask_of(batch)), dtype=torch.bool, device=ran.device)
            others[ran] = False
            rest = chosen(batch, others.nonzero()[:, 0])
            found.append(
                left_out_metrics(self.objective, loss.value.new_zeros(len(mask_of(rest))), layout_of(self.objective, rest))
            )
        self.add_metrics(training, *found)

    def add_metrics(self, training: bool, *found: Metrics) -> None:
        """Anything else that was measured."""
        self.parts[training] = [merge(*self.parts[training], *found)]

    def take(self, training: bool, accelerator: Any) -> dict[str, float]:
        """Numbers of all ranks since the last call, by the names of `summary`. A new finding is logged as a warning."""
        if not self.parts[training]:
            return {}
        (own,), self.parts[training] = self.parts[training], []
        ranks = [accelerator.gather(vector[None]) for vector in own]
        whole = merge(*(Metrics(*vectors) for vectors in zip(*ranks, strict=True)))
        findings = diagnose(whole, self.objective) if training else ()
        for finding in findings:
            if finding.kind.name not in self._said and accelerator.is_main_process:
                logger.warning("%s: %s", finding.kind.name, finding.sentence)
        self._said |= {finding.kind.name for finding in findings}
        return {f"gspo/{name}": value for name, value in summary(whole).items() if name not in UNLOGGED}
