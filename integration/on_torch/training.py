"""The training loop in PyTorch: a rollout, and an optimizer step on each of its mini-batches."""

from __future__ import annotations

import time
from typing import Any

import torch
from tqdm import tqdm

from gspo_core import Padded, group_metrics
from integration.on_torch.adapters import trained
from integration.on_torch.batches import MiniBatch, mini_batch
from integration.on_torch.passes import Old, loss_of, old_pass, sampler_gap, update_pass
from integration.on_torch.sampling.rollout import Responses, Sampler, predicting_states
from integration.on_torch.trainer import Trainer, prepare
from integration.on_torch.unfinished import Unfinished
from integration.options.config import Config
from integration.shared.interrupt import NEVER, Abandoned, Stopping
from integration.shared.loop import count_step, judge, run
from integration.shared.measure import Rollup
from integration.shared.pace import QUIET
from integration.shared.sampling import sampling_row


def train(config: Config) -> int:
    """A run to its end; returns the exit status."""
    trainer = prepare(config)
    return run(trainer, lambda stop: one_rollout(trainer, stop))


def one_rollout(trainer: Trainer, stop: Stopping = NEVER) -> dict[str, Any]:
    """Sample, judge, and take one optimizer step per mini-batch. Returns metrics.

    A stop between two of the steps leaves the rest in `trainer.unfinished`, with which the next call begins.
    """
    work = trainer.unfinished or begin(trainer)
    stop.finish()
    trainer.drawn_from = trainer.unfinished = None
    left = list(zip(work.batches, work.olds, strict=True))[work.done :]
    for batch, old in tqdm(left, "updating", unit="mini-batch", **QUIET):
        began = time.perf_counter()
        update(trainer, batch, old, work.rollup)
        work.seconds_updating += time.perf_counter() - began
        work.done += 1
        if stop.requested and work.done < len(work.batches) and trainer.can_be_continued:
            trainer.unfinished = work
            raise Abandoned
    return {
        **work.judged,
        **(measured := work.rollup.row()),
        **work.drawn,
        "findings": work.drawn["findings"] + measured["findings"],
        **trainer.advised(work.rollup.pilot(work.lengths, work.advantages)),
        "seconds_sampling": round(work.seconds_sampling, 3),
        "seconds_updating": round(work.seconds_updating, 3),
    }


def begin(trainer: Trainer) -> Unfinished:
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
    rollup.add(group_metrics(advantages, torch.arange(len(advantages), device=advantages.device) // config.group_size))
    olds = [[old_pass(trainer, part, rollup) for part, _ in batch.parts] for batch in batches]  # all before the first update
    drawn = sampling_row(
        sampler_gap(trainer, responses), ended(responses, trainer.sampler), low=config.dtype != "float32",
        new_tokens=config.max_new_tokens,
    )  # fmt: skip
    return Unfinished(
        judged.row(), drawn, responses.mask.sum(-1), advantages, batches, olds, rollup,
        seconds_sampling=sampled - began, seconds_updating=time.perf_counter() - sampled,
    )  # fmt: skip


def ended(responses: Responses, sampler: Sampler) -> float:
    """The share of responses that ended by themselves."""
    last = responses.tokens.gather(1, responses.mask.sum(-1, keepdim=True) - 1)
    return float(torch.isin(last, sampler.stop_ids).float().mean())


def update(trainer: Trainer, batch: MiniBatch, olds: list[Old], rollup: Rollup) -> None:
    """One optimizer step. Micro-batches add up exactly: they share the mini-batch's denominator."""
    for parameter in trained(trainer.model):  # zeros, not None: without any gradient AdamW shall still step
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
    norm = torch.nn.utils.clip_grad_norm_(trained(trainer.model), trainer.config.max_grad_norm)
    finite = bool(torch.isfinite(norm)) and rollup.is_finite()
    rollup.add_step(float(norm), batch.left_out, skipped=not finite)
    if finite:
        lr = trainer.config.lr * min(1.0, (trainer.optimizer_steps + 1) / max(1, trainer.config.lr_warm_up))
        for group in trainer.optimizer.param_groups:
            group["lr"] = lr
        trainer.optimizer.step()
    count_step(trainer, finite=finite)
