"""The training loop in JAX: a rollout, and an optimizer step on each of its mini-batches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from gspo_jax import linear_policy_loss

from gspo_core import Objective, Padded, group_metrics
from gspo_core.kl import KLTerm
from gspo_core.metrics import Metrics, left_out_metrics
from gspo_core.objectives import LinearLoss
from gspo_core.planning import Plan
from integration.on_jax.learner import Predicting
from integration.on_jax.rollout import Responses, random_keys, resized
from integration.on_jax.trainer import Trainer, prepare
from integration.options.config import Config
from integration.shared.interrupt import NEVER, Stopping
from integration.shared.loop import count_step, judge, run
from integration.shared.measure import Rollup

Array = Any


def train(config: Config) -> int:
    """A run to its end; returns the exit status."""
    trainer = prepare(config)
    return run(trainer, lambda stop: one_rollout(trainer, stop))


def one_rollout(trainer: Trainer, stop: Stopping = NEVER) -> dict[str, Any]:
    """Sample, judge, and take one optimizer step per mini-batch; `stop` waits from the first on. Returns metrics."""
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
    # Of the policy that all mini-batches of this rollout are measured against.
    olds = [[old_pass(trainer, part, batch.denominator) for part, _ in batch.parts] for batch in batches]

    rollup = Rollup(trainer.objective)
    rollup.add(group_metrics(advantages, np.arange(len(advantages)) // config.group_size))
    stop.finish()
    for batch, old in zip(batches, olds, strict=True):
        update(trainer, batch, old, rollup)
    updated = time.perf_counter()
    return {
        **judged.row(),
        **rollup.row(),
        **trainer.advised(rollup.pilot(responses.mask.sum(-1), advantages)),
        "seconds_sampling": round(sampled - began, 3),
        "seconds_updating": round(updated - sampled, 3),
    }


@dataclass(frozen=True)
class MiniBatch:
    """Inputs of one optimizer step."""

    parts: list[tuple[Responses, Array]]
    """Micro-batches of responses with their advantages, those without an advantage left out: their gradient is zero."""
    denominator: Array
    """[] the objective's count over all responses of the mini-batch, those left out included: the loss stays exact."""
    left_out: Metrics | None
    """Of the responses that are not run; None if all are."""


def mini_batch(trainer: Trainer, responses: Responses, advantages: Array, planned: Plan, rows: Array) -> MiniBatch:
    """Those of the chosen rows that have to be run, in micro-batches, filled up to a bucket with rows that hold nothing."""
    whole = Padded(responses.mask[rows])
    step = planned.step(trainer.objective, whole, rows)
    size = trainer.config.micro_batch_size or len(rows)
    pieces = [step.rows[start : start + size] for start in range(0, len(step.rows), size)]
    parts = [(part, resized(advantages[p], part.mask.shape[:1])) for p in pieces for part in [responses.rows(p)]]
    left_out = left_out_metrics(trainer.objective, advantages[rows], whole) if len(step.rows) < len(rows) else None
    return MiniBatch(parts, step.denominator, left_out)


class Old(NamedTuple):
    """Reference values for the updates of a micro-batch."""

    logp: Array
    """[N, T] the trainer's log-probs before the first update."""
    kl: KLTerm | None
    """The penalty on the KL divergence from the reference policy, if there is one."""


def old_pass(trainer: Trainer, part: Responses, denominator: Array) -> Old:
    """Log-probs of the policy that all mini-batches of a rollout are measured against, and the penalty that is added.

    They are those of a loss in which no response has an advantage. It is the updates' own compiled call: where the weights
    are equal every ratio is exactly 1, and a KL estimate exactly 0.
    """
    reference = trainer.reference

    def measured_logp(params: Any) -> Array:
        states, _ = trainer.learner.hidden_states_of(params, part)
        zeros = np.zeros(part.mask.shape, dtype=states.hidden.dtype)
        unmeasured = None if reference is None else reference.term(zeros)
        advantage = np.zeros(len(part.mask), dtype=np.float32)
        return loss_of(trainer, part, states, zeros, advantage, denominator, unmeasured)[1].logp

    kl = None if reference is None else reference.term(measured_logp(reference.params))
    return Old(measured_logp(trainer.learner.params), kl)


def update(trainer: Trainer, batch: MiniBatch, olds: list[Old], rollup: Rollup) -> None:
    """One optimizer step. Micro-batches add up exactly: they share the mini-batch's denominator."""
    gradients = trainer.learner.zeros()
    for (part, advantage), old in zip(batch.parts, olds, strict=True):
        layout = Padded(part.mask)
        states, pull_back = trainer.learner.hidden_states(part)
        gradient, loss = loss_of(trainer, part, states, old.logp, advantage, batch.denominator, old.kl)
        gradients = trainer.learner.add(gradients, pull_back, gradient)
        ref_logp = None if old.kl is None else old.kl.ref_logp
        loss, old_logp, ref_logp = jax.device_get((loss, old.logp, ref_logp))
        rollup.add_loss(loss, old_logp, advantage, layout, ref_logp=ref_logp)
    norm = float(optax.tree.norm(gradients))
    finite = bool(np.isfinite(norm)) and rollup.is_finite()
    rollup.add_step(norm, batch.left_out, skipped=not finite)
    if finite:
        trainer.learner.step(gradients)
    count_step(trainer, finite=finite)


def loss_of(
    trainer: Trainer,
    part: Responses,
    states: Predicting,
    old_logp: Array,
    advantage: Array,
    denominator: Array,
    kl: KLTerm | None,
) -> tuple[Predicting, LinearLoss]:
    """(the loss's gradient with respect to hidden states and LM head, the loss and its log-probs)."""
    options = trainer.objective, trainer.config.temperature
    pair: tuple[Predicting, LinearLoss] = differentiate(
        *options, states, part.tokens, old_logp, advantage, Padded(part.mask), denominator, kl
    )
    return pair


@partial(jax.jit, static_argnums=(0, 1))
def differentiate(
    objective: Objective,
    temperature: float,
    states: Predicting,
    tokens: Array,
    old_logp: Array,
    advantage: Array,
    layout: Padded,
    denominator: Array,
    kl: KLTerm | None,
) -> tuple[Predicting, LinearLoss]:
    """`loss_of`, compiled once for each shape."""

    def value(states: Predicting) -> tuple[Array, LinearLoss]:
        loss = linear_policy_loss(
            objective, *states, tokens, old_logp, advantage, layout,
            denominator=denominator, temperature=temperature, kl=kl, return_logp=True, return_entropy=True,
        )  # fmt: skip
        return loss.value, loss

    pair: tuple[Predicting, LinearLoss] = jax.grad(value, has_aux=True)(states)
    return pair
