"""The mini-batches of a rollout: which responses are run for each optimizer step, by which process, in which micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gspo_core import Padded
from gspo_core.metrics import Metrics, left_out_metrics
from gspo_core.planning import Plan
from integration.on_torch.micro_batches import micro_batches
from integration.on_torch.parallel.share import share_out
from integration.on_torch.sampling.rollout import Responses
from integration.on_torch.trainer import Trainer


@dataclass(frozen=True)
class MiniBatch:
    """Inputs of one optimizer step, in one of the processes."""

    parts: list[tuple[Responses, Tensor]]
    """Micro-batches of responses with their advantages, those without an advantage left out: their gradient is zero."""
    denominator: Tensor
    """[] the objective's count over all responses of the mini-batch, those left out included: the loss stays exact."""
    left_out: Metrics | None
    """Of the responses that are not run; None if all are, and in all processes but one."""
    counted: int
    """So many of the parts are this process's own. The others are one token without an advantage: every process has equally
    many passes, since they exchange weights and gradients."""


def mini_batch(trainer: Trainer, responses: Responses, advantages: Tensor, planned: Plan, rows: Tensor) -> MiniBatch:
    """Those of the chosen rows that have to be run by this process, in micro-batches."""
    whole, share = Padded(responses.mask[rows]), trainer.processes.share
    step = planned.step(trainer.objective, whole, rows)
    live = torch.from_numpy(step.rows)
    pieces = [micro_batches(trainer.config, responses, part) for part in shares_of(responses, live, share.count)]
    parts = [(responses.rows(piece), advantages[piece]) for piece in pieces[share.index]]
    counted, most = len(parts), max(map(len, pieces))
    if counted < most:
        parts += [(responses.one_token(int(live[0])), torch.zeros_like(advantages[:1]))] * (most - counted)
    left_out = None
    if share.index == 0 and len(live) < len(rows):
        left_out = left_out_metrics(trainer.objective, advantages[rows], whole)
    return MiniBatch(parts, step.denominator, left_out, counted)


def shares_of(responses: Responses, live: Tensor, count: int) -> list[Tensor]:
    """The rows `live` in `count` parts with about as many tokens each, prompts included."""
    tokens = (responses.prompt_mask[live].sum(-1) + responses.mask[live].sum(-1)).tolist()
    return [live[torch.tensor(part, dtype=torch.int64)] for part in share_out(tokens, count)]
