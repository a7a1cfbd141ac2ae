"""One run of the training study: a warmed-up model, an arm, a learning rate, a seed; and the measurements on the way."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from gspo_torch import Routes, policy_loss, record_routes, replay_routes
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from gspo_core import Padded, batch_metrics, group_advantages, merge, summary
from gspo_core.metrics import Metrics
from integration.studies.moe_training.arms import Job, Replay
from integration.studies.moe_training.reversal import (
    evaluate,
    generator_of,
    log_probs,
    prompts,
    rewards,
    sample,
    score,
    seeded,
)

BETAS = (0.9, 0.99)
"""Adam's."""
DIGITS = 5
"""Significant digits of the results."""


@dataclass
class Updates:
    """Measurements of a rollout's mini-batches, each before its step."""

    metrics: list[Metrics] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    skipped: int = 0
    flips: list[float] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        """Plain numbers over all mini-batches of the rollout.

        The clip fraction is a share of the tokens that have an advantage. Responses are equally long, so the share of
        responses without one is that of their tokens. Standard deviations have n − 1 in their denominator.
        """
        numbers = summary(merge(*self.metrics))
        tokens, responses = numbers["tokens"], numbers["sequences"]
        return {
            "clip_fraction": numbers["clip_active_tokens"] / max(1 - numbers["zero_advantage"], 1 / responses),
            "grad_norm": sum(self.norms) / max(len(self.norms), 1),
            "grad_norm_max": max(self.norms, default=0.0),
            "sd_token": numbers["token_std"] * math.sqrt(tokens / (tokens - 1)),
            "sd_log_s": numbers["log_s_std"] * math.sqrt(responses / (responses - 1)),
            "log_s_max": max(-numbers["log_s_min"], numbers["log_s_max"]),
        }


def run(job: Job, model: Any, device: str = "cpu") -> dict[str, Any]:
    """Train the warmed-up model, and evaluate it before and after. All but the seconds is a function of the job alone.

    A step with a gradient that is not finite is skipped and counted.
    """
    sizes, began = job.study.sizes, time.perf_counter()
    optimizer = torch.optim.Adam(model.parameters(), lr=job.lr, betas=BETAS)
    rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / sizes.lr_warm_up))
    before = evaluate(sizes, model, job.seed, device)
    rows = [_rollout(job, model, optimizer, rise, number, device) for number in range(sizes.rollouts)]
    after = evaluate(sizes, model, job.seed, device)
    curves = {name: [_short(row[name]) for row in rows] for name in rows[0]}
    return {
        "study": job.study.name,
        "arm": job.arm.name,
        "lr": job.lr,
        "seed": job.seed,
        "held_out": [before, after],
        "curves": {name: curve for name, curve in curves.items() if not name.startswith("seconds")},
        "seconds": {
            "run": round(time.perf_counter() - began, 1),
            **{name.removeprefix("seconds_"): round(sum(curves[name]), 1) for name in curves if name.startswith("seconds")},
        },
    }


def _rollout(job: Job, model: Any, optimizer: Optimizer, rise: LRScheduler, number: int, device: str) -> dict[str, Any]:
    """Sample with the engine's noise, compute the old log-probs, then take one step per mini-batch."""
    sizes, began = job.study.sizes, time.perf_counter()
    prompt = prompts(sizes, sizes.prompts, generator_of(job.seed, 3, number)).repeat_interleave(sizes.group, 0).to(device)
    noise = 0.0 if job.arm.dense else sizes.noise
    ids, sampled = sample(sizes, model, prompt, noise, seeded(job.seed, 4, number))
    reward = rewards(sizes, ids)
    advantage = group_advantages(reward, torch.arange(len(ids), device=device) // sizes.group)
    answered = time.perf_counter()
    r3 = sampled if job.arm.replay is Replay.R3 else None
    old, own = score(sizes, model, ids, seeded(job.seed, 5, number), r3)
    routes = {Replay.NONE: None, Replay.R2: own, Replay.R3: sampled}[job.arm.replay]
    scored = time.perf_counter()
    updates = Updates()
    order = torch.randperm(len(ids), generator=generator_of(job.seed, 6, number)).chunk(sizes.mini_batches)
    for rows in order:
        update(job, model, optimizer, updates, ids[rows], old[rows], advantage[rows], routes and routes.rows(rows))
        rise.step()
    if routes is None:
        updates.flips = _flips_since(job, model, ids[order[-1]], own.rows(order[-1]))
    return {
        "reward": float(reward.mean()),
        **updates.row(),
        "skipped": updates.skipped,
        "flips_engine": [_short(x) for x in sampled.flips(own).tolist()],
        "flips_updates": [_short(x) for x in updates.flips],
        "seconds_responses": answered - began,
        "seconds_scoring": scored - answered,
        "seconds_updating": time.perf_counter() - scored,
    }


def update(
    job: Job,
    model: Any,
    optimizer: Optimizer,
    updates: Updates,
    ids: Tensor,
    old: Tensor,
    advantage: Tensor,
    routes: Routes | None,
) -> None:
    """One optimizer step on a mini-batch [n, ...]; gradients are not clipped."""
    with ExitStack() as stack:
        if routes is not None:
            stack.enter_context(replay_routes(model, routes))
        logp = log_probs(job.study.sizes, model, ids)
        layout = Padded(torch.ones(old.shape, dtype=torch.bool, device=old.device))
        loss = policy_loss(job.arm.objective, logp, old, advantage, layout)
        optimizer.zero_grad()
        loss.value.backward()
    updates.metrics.append(batch_metrics(job.arm.objective, loss, logp, old, advantage, layout))
    norm = float(torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    if math.isfinite(norm):
        updates.norms.append(norm)
        optimizer.step()
    else:
        updates.skipped += 1


@torch.no_grad()
def _flips_since(job: Job, model: Any, ids: Tensor, own: Routes) -> list[float]:
    """By layer: the share of the last mini-batch's slots that go to another expert after the rollout's updates."""
    with record_routes(model) as now:
        log_probs(job.study.sizes, model, ids)
    flips: list[float] = own.flips(now).tolist()
    return flips


def _short(x: Any) -> Any:
    return float(f"{x:.{DIGITS}g}") if isinstance(x, float) else x
