"""The mini-batches of a rollout: which responses are run for each optimizer step, and in which micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gspo_core import Padded
from gspo_core.metrics import Metrics, left_out_metrics
from gspo_core.planning import Plan
from integration.on_torch.micro_batches import micro_batches
from integration.on_torch.sampling.rollout import Responses
from integration.on_torch.trainer import Trainer


@dataclass(frozen=True)
class MiniBatch:
    """Inputs of one optimizer step."""

    parts: list[tuple[Responses, Tensor]]
    """Micro-batches of responses with their advantages, those without an advantage left out: their gradient is zero."""
    denominator: Tensor
    """[] the objective's count over all responses of the mini-batch, those left out included: the loss stays exact."""
    left_out: Metrics | None
    """Of the responses that are not run; None if all are."""


def mini_batch(trainer: Trainer, responses: Responses, advantages: Tensor, planned: Plan, rows: Tensor) -> MiniBatch:
    """Those of the chosen rows that have to be run, in micro-batches."""
    whole = Padded(responses.mask[rows])
    step = planned.step(trainer.objective, whole, rows)
    live = torch.from_numpy(step.rows)
    pieces = micro_batches(trainer.config, responses, live)
    parts = [(responses.rows(piece), advantages[piece]) for piece in pieces]
    left_out = left_out_metrics(trainer.objective, advantages[rows], whole) if len(live) < len(rows) else None
    return MiniBatch(parts, step.denominator, left_out)
