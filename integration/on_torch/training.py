"""The training loop in PyTorch: a rollout, and an optimizer step on each of its mini-batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gspo_core import Padded, group_metrics
from gspo_core.metrics import Metrics, left_out_metrics
from gspo_core.planning import Plan
from integration.on_torch.micro_batches import micro_batches
from integration.on_torch.passes import Old, loss_of, old_pass, sampler_gap, update_pass
from integration.on_torch.rollout import Responses, Sampler, predicting_states
from integration.on_torch.trainer import Trainer, prepare
from integration.options.config import Config
from integration.shared.loop import count_step, judge, run
from integration.shared.measure import Rollup
from integration.shared.pace import QUIET
from integration.shared.sampling import sampling_row


def train(config: Config) -> int:
    """A run to its end; returns the exit status."""
    trainer = prepare(config)
    return run(trainer, lambda updating: one_rollout(trainer, updating))


def one_rollout(trainer: Trainer, updating: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Sample, judge, and take one optimizer step per mini-batch; `updating` is called before the first. Returns metrics."""
    config = trainer.config
    began = time.perf_counter()
    examples = trainer.task.prompts_for(trainer.step, config.prompts_per_rollout, config.seed)
    responses = trainer.draw(examples)
    judged = judge(trainer, examples, trainer.sampler.texts(responses))
    planned = judged.planned
    advantages = torch.as_tensor(planned.advantage, dtype=torch.float32, device=responses.tokens.device)

    order = torch.randperm(len(advantages), generator=trainer.shuffling).chunk(config.mini_batches)
    batches = [mini_batch(trainer, responses, advantages, planned, rows) for rows in order]
    sampled, rollup = time.perf_counter(), Rollup(trainer.objective)
    rollup.add(group_metrics(advantages, torch.arange(len(advantages), device=advantages.device) // config.group_size))
    olds = [[old_pass(trainer, part, rollup) for part, _ in batch.parts] for batch in batches]  # all before the first update
    drawn = sampling_row(
        sampler_gap(trainer, responses), ended(responses, trainer.sampler), low=config.dtype != "float32",
        new_tokens=config.max_new_tokens,
    )  # fmt: skip
    updating()
    trainer.drawn_from = None
    steps = tqdm(zip(batches, olds, strict=True), "updating", len(batches), unit="mini-batch", **QUIET)
    for batch, old in steps:
        update(trainer, batch, old, rollup)
    updated = time.perf_counter()
    return {
        **judged.row(),
        **(measured := rollup.row()),
        **drawn,
        "findings": drawn["findings"] + measured["findings"],
        **trainer.advised(rollup.pilot(responses.mask.sum(-1), advantages)),
        "seconds_sampling": round(sampled - began, 3),
        "seconds_updating": round(updated - sampled, 3),
    }


def ended(responses: Responses, sampler: Sampler) -> float:
    """The share of responses that ended by themselves."""
    last = responses.tokens.gather(1, responses.mask.sum(-1, keepdim=True) - 1)
    return float(torch.isin(last, sampler.stop_ids).float().mean())


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


def update(trainer: Trainer, batch: MiniBatch, olds: list[Old], rollup: Rollup) -> None:
    """One optimizer step. Micro-batches add up exactly: they share the mini-batch's denominator."""
    for parameter in trainer.model.parameters():  # zeros, not None: without any gradient AdamW shall still step
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
    for (part, advantage), old in zip(batch.parts, olds, strict=True):
        layout = Padded(part.mask)
        weighted = old.weighted(advantage, layout)
        with update_pass(trainer, old, rollup):
            hidden = predicting_states(trainer.model, part, trainer.sampler.reading)
            loss = loss_of(trainer, trainer.model, part, hidden, old.logp, weighted, batch.denominator, old.kl)
            loss.value.backward()
        ref_logp = None if old.kl is None else old.kl.ref_logp
        rollup.add_loss(loss, old.logp, advantage, layout, weighted=weighted, sampler_logp=part.logp, ref_logp=ref_logp)
    norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.config.max_grad_norm)
    finite = bool(torch.isfinite(norm)) and rollup.is_finite()
    rollup.add_step(float(norm), batch.left_out, skipped=not finite)
    if finite:
        lr = trainer.config.lr * min(1.0, (trainer.optimizer_steps + 1) / max(1, trainer.config.lr_warm_up))
        for group in trainer.optimizer.param_groups:
            group["lr"] = lr
        trainer.optimizer.step()
    count_step(trainer, finite=finite)
