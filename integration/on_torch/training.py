"""The training loop in PyTorch: a rollout, and an optimizer step on each of its mini-batches."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from gspo_core import Padded, group_metrics
from integration.on_torch.adapters import trained
from integration.on_torch.batches import MiniBatch, mini_batch
from integration.on_torch.parallel.merging import whole_rollup
from integration.on_torch.parallel.processes import joined, naming_lost_ranks
from integration.on_torch.passes import Given, Old, loss_of, old_pass, sampler_gap, update_pass
from integration.on_torch.preparing import prepare
from integration.on_torch.sampling.rollout import Responses, Sampler
from integration.on_torch.trainer import Trainer
from integration.options.config import Config
from integration.shared.interrupt import NEVER, Abandoned, Stopping
from integration.shared.loop import count_step, judge, run
from integration.shared.measure import Rollup
from integration.shared.pace import QUIET
from integration.shared.sampling import sampling_row
from integration.shared.unfinished import Unfinished


def train(config: Config) -> int:
    """A run to its end; returns the exit status."""
    with joined(config) as processes:
        trainer = prepare(config, processes)
        return run(trainer, lambda stop: one_rollout(trainer, stop))


def one_rollout(trainer: Trainer, stop: Stopping = NEVER) -> dict[str, Any]:
    """Sample, judge, and take one optimizer step per mini-batch. Returns metrics.

    A stop between two of the steps leaves the rest in `trainer.unfinished`, with which the next call begins.
    """
    with naming_lost_ranks():
        work = trainer.unfinished or begin(trainer)
        stop.finish()
        trainer.drawn_from = trainer.unfinished = None
        left = list(zip(work.batches, work.olds, strict=True))[work.done :]
        for batch, old in tqdm(left, "updating", unit="mini-batch", **QUIET):
            began = time.perf_counter()
            update(trainer, batch, old, work.rollup)
            work.seconds_updating += time.perf_counter() - began
            work.done += 1
            if trainer.can_be_continued and work.done < len(work.batches) and stop.asked():
                trainer.unfinished = work
                raise Abandoned
        rollup = whole_rollup(work.rollup, trainer.processes)
    return {
        **work.judged,
        **(measured := rollup.row()),
        **work.drawn,
        "findings": work.drawn["findings"] + measured["findings"],
        **trainer.advised(rollup.pilot(work.lengths, work.advantages)),
        "seconds_sampling": round(work.seconds_sampling, 3),
        "seconds_updating": round(work.seconds_updating, 3),
    }


def begin(trainer: Trainer) -> Unfinished[MiniBatch, Old]:
    """A rollout up to its first optimizer step: responses, advantages, and the log-probs of the policy that sampled."""
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
    if trainer.processes.share.index == 0:
        rollup.add(group_metrics(advantages, torch.arange(len(advantages), device=advantages.device) // config.group_size))
    with trainer.passes.whole():
        olds = [old_passes(trainer, batch, rollup) for batch in batches]  # all before the first update
        gap = sampler_gap(trainer, responses)
    drawn = sampling_row(
        gap, ended(responses, trainer.sampler), low=config.dtype != "float32", new_tokens=config.max_new_tokens
    )
    return Unfinished(
        judged.row(), drawn, responses.mask.sum(-1), advantages, batches, olds, rollup,
        seconds_sampling=sampled - began, seconds_updating=time.perf_counter() - sampled,
    )  # fmt: skip


def ended(responses: Responses, sampler: Sampler) -> float:
    """The share of responses that ended by themselves."""
    last = responses.tokens.gather(1, responses.mask.sum(-1, keepdim=True) - 1)
    return float(torch.isin(last, sampler.stop_ids).float().mean())


def old_passes(trainer: Trainer, batch: MiniBatch, rollup: Rollup) -> list[Old]:
    """`old_pass` of each micro-batch; those that are not counted have no part in the rollup."""
    rollups = [rollup] * batch.counted + [Rollup(trainer.objective)] * (len(batch.parts) - batch.counted)
    return [old_pass(trainer, part, own) for (part, _), own in zip(batch.parts, rollups, strict=True)]


def update(trainer: Trainer, batch: MiniBatch, olds: list[Old], rollup: Rollup) -> None:
    """One optimizer step. Micro-batches of all processes add up exactly: they share the mini-batch's denominator."""
    for parameter in trained(trainer.model):  # zeros, not None: without any gradient AdamW shall still step
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()
    for number, ((part, advantage), old) in enumerate(zip(batch.parts, olds, strict=True), start=1):
        layout, counted = Padded(part.mask), number <= batch.counted
        weighted = old.weighted(advantage, layout)
        waiting = nullcontext() if number == len(batch.parts) else trainer.passes.accumulating()
        own = rollup if counted else Rollup(trainer.objective)
        with update_pass(trainer, part, old, own) as split, waiting:
            given = Given(part, split, old, weighted, batch.denominator)
            loss = trainer.passes.run(partial(loss_of, trainer, given))
            (trainer.passes.gradient_scale * loss.value).backward()
        if counted:
            ref_logp = None if old.kl is None else old.kl.ref_logp
            rollup.add_loss(loss, old.logp, advantage, layout, weighted=weighted, sampler_logp=part.logp, ref_logp=ref_logp)
    norm = whole_norm(torch.nn.utils.clip_grad_norm_(trained(trainer.model), trainer.config.max_grad_norm))
    finite = not trainer.ranks.any(not (math.isfinite(norm) and rollup.is_finite()))
    rollup.add_step(norm, batch.left_out, skipped=not finite)
    if finite:
        lr = trainer.config.lr * min(1.0, (trainer.optimizer_steps + 1) / max(1, trainer.config.lr_warm_up))
        for group in trainer.optimizer.param_groups:
            group["lr"] = lr
        trainer.optimizer.step()
    count_step(trainer, finite=finite)


def whole_norm(norm: torch.Tensor) -> float:
    """The norm of a gradient, of which each process may have a part."""
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
