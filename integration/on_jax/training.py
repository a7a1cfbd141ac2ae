"""The training loop in JAX: a rollout, and an optimizer step on each of its mini-batches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from gspo_jax import policy_loss

from gspo_core import Loss, Objective, Padded
from gspo_core.planning import Plan
from integration.on_jax.rollout import Responses, random_keys, resized
from integration.on_jax.trainer import Trainer, prepare
from integration.shared.config import Config
from integration.shared.loop import count_step, judge, run
from integration.shared.measure import Rollup

Array = Any


def train(config: Config) -> int:
    """A run to its end; returns the exit status."""
    trainer = prepare(config)
    return run(trainer, lambda: one_rollout(trainer))


def one_rollout(trainer: Trainer) -> dict[str, Any]:
    """Sample, judge, and take one optimizer step per mini-batch. Returns what was measured."""
    config = trainer.config
    began = time.perf_counter()
    keys = random_keys(config.seed, trainer.step)
    examples = trainer.task.prompts_for(trainer.step, config.prompts_per_rollout, config.seed)
    responses = trainer.sampler.draw(examples, config.group_size, keys)
    judged = judge(trainer, examples, trainer.sampler.texts(responses))
    advantages = np.asarray(judged.planned.advantage, dtype=np.float32)

    order = np.split(np.asarray(jax.random.permutation(next(keys), len(advantages))), config.mini_batches)
    batches = [mini_batch(trainer, responses, advantages, judged.planned, rows) for rows in order]
    sampled = time.perf_counter()
    # The policy that all mini-batches of this rollout are measured against.
    old = [[trainer.learner.log_probs(part)[0] for part, _ in batch.parts] for batch in batches]

    rollup = Rollup()
    for batch, old_logps in zip(batches, old, strict=True):
        update(trainer, batch, old_logps, rollup)
    updated = time.perf_counter()
    lengths = responses.mask.sum(-1)
    return {
        **judged.row(lengths),
        "verifier_errors": trainer.task.verifier_errors,
        **rollup.row(),
        **trainer.advised(rollup.pilot(lengths, advantages)),
        "seconds_sampling": round(sampled - began, 3),
        "seconds_updating": round(updated - sampled, 3),
    }


@dataclass(frozen=True)
class MiniBatch:
    """What one optimizer step is taken on."""

    parts: list[tuple[Responses, Array]]
    """Micro-batches of responses with their advantages, those without an advantage left out: their gradient is zero."""
    denominator: Array
    """[] the objective's count over all responses of the mini-batch, those left out included: the loss stays exact."""
    units: int
    """Ratios in the mini-batch, those left out included."""


def mini_batch(trainer: Trainer, responses: Responses, advantages: Array, planned: Plan, rows: Array) -> MiniBatch:
    """Those of the chosen rows that have to be run, in micro-batches, filled up to a bucket with rows that hold nothing."""
    whole = Padded(responses.mask[rows])
    step = planned.step(trainer.objective, whole, rows)
    size = trainer.config.micro_batch_size or len(rows)
    pieces = [step.rows[start : start + size] for start in range(0, len(step.rows), size)]
    units = int(whole.valid.sum()) if trainer.objective.ratio.per_token else len(rows)
    parts = [(part, resized(advantages[p], part.mask.shape[:1])) for p in pieces for part in [responses.rows(p)]]
    return MiniBatch(parts, step.denominator, units)


def update(trainer: Trainer, batch: MiniBatch, old_logps: list[Array], rollup: Rollup) -> None:
    """One optimizer step. Micro-batches add up exactly: they share the mini-batch's denominator."""
    gradients = trainer.learner.zeros()
    for (part, advantage), old in zip(batch.parts, old_logps, strict=True):
        logp, pull_back = trainer.learner.log_probs(part)
        logp_grad, loss = differentiate(trainer.objective, logp, old, advantage, Padded(part.mask), batch.denominator)
        gradients = trainer.learner.add(gradients, pull_back, logp_grad)
        loss, logp, old_logp = jax.device_get((loss, logp, old))
        rollup.add_loss(loss, logp, old_logp, advantage, Padded(part.mask))
    norm = float(optax.tree.norm(gradients))
    finite = bool(np.isfinite(norm))
    rollup.add_step(norm, units=batch.units, skipped=not finite)
    if finite:
        trainer.learner.step(gradients)
    count_step(trainer, finite=finite)


@partial(jax.jit, static_argnums=0)
def differentiate(
    objective: Objective, logp: Array, old_logp: Array, advantage: Array, layout: Padded, denominator: Array
) -> tuple[Array, Loss]:
    """(the loss's gradient by the log-probs [N, T], the loss)."""

    def value(logp: Array) -> tuple[Array, Loss]:
        loss = policy_loss(objective, logp, old_logp, advantage, layout, denominator=denominator)
        return loss.value, loss

    pair: tuple[Array, Loss] = jax.grad(value, has_aux=True)(logp)
    return pair
