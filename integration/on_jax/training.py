"""The training loop in JAX: a rollout, and an optimizer step on each of its mini-batches."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from tqdm import tqdm

from gspo_core import Padded, group_metrics
from gspo_core.kl import KLTerm
from gspo_core.metrics import Metrics, left_out_metrics
from gspo_core.objectives import LinearLoss
from gspo_core.planning import Plan
from integration.on_jax.learner import Predicting
from integration.on_jax.loss import differentiate
from integration.on_jax.rollout import Responses, random_keys, resized
from integration.on_jax.trainer import Trainer, prepare
from integration.options.config import Config
from integration.shared.interrupt import NEVER, Abandoned, Stopping
from integration.shared.loop import count_step, judge, run
from integration.shared.measure import Rollup
from integration.shared.pace import QUIET
from integration.shared.sampling import sampling_row
from integration.shared.unfinished import Unfinished

Array = Any


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
    trainer.unfinished = None
    left = list(zip(work.batches, work.olds, strict=True))[work.done :]
    for batch, old in tqdm(left, "updating", unit="mini-batch", **QUIET):
        began = time.perf_counter()
        update(trainer, batch, old, work.rollup)
        work.seconds_updating += time.perf_counter() - began
        work.done += 1
        if stop.asked() and work.done < len(work.batches) and trainer.can_be_continued:
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


def begin(trainer: Trainer) -> Unfinished[MiniBatch, Old]:
    """A rollout up to its first optimizer step: responses, advantages, and the log-probs of the policy that sampled."""
    config = trainer.config
    began = time.perf_counter()
    keys = random_keys(config.seed, trainer.step)
    examples = trainer.task.prompts_for(trainer.step, config.prompts_per_rollout, config.seed)
    responses = trainer.sampler.draw(examples, config.group_size, keys)
    judged = judge(trainer, examples, trainer.sampler.texts(responses))
    advantages = np.asarray(judged.planned.advantage, dtype=np.float32)

    order = np.split(np.asarray(jax.random.permutation(next(keys), len(advantages))), config.mini_batches)
    batches = [mini_batch(trainer, responses, advantages, judged.planned, rows) for rows in order]
    sampled, rollup = time.perf_counter(), Rollup(trainer.objective)
    rollup.add(group_metrics(advantages, np.arange(len(advantages)) // config.group_size))
    # Of the policy that all mini-batches of this rollout are measured against.
    olds = [[old_pass(trainer, part, batch.denominator) for part, _ in batch.parts] for batch in batches]
    drawn = sampling_row(
        sampler_gap(batches, olds), trainer.sampler.ended(responses), low=False, new_tokens=config.max_new_tokens
    )
    return Unfinished(
        judged.row(), drawn, responses.mask.sum(-1), advantages, batches, olds, rollup,
        seconds_sampling=sampled - began, seconds_updating=time.perf_counter() - sampled,
    )  # fmt: skip


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
    shares = trainer.learner.place.data
    parts = [(part, resized(advantages[p], part.mask.shape[:1])) for p in pieces for part in [responses.rows(p, shares)]]
    left_out = left_out_metrics(trainer.objective, advantages[rows], whole) if len(step.rows) < len(rows) else None
    return MiniBatch(parts, step.denominator, left_out)


class Old(NamedTuple):
    """Reference values for the updates of a micro-batch."""

    logp: Array
    """[N, T] the trainer's log-probs before the first update, in NumPy."""
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
        return jax.device_get(loss_of(trainer, part, states, zeros, advantage, denominator, unmeasured)[1].logp)

    kl = None if reference is None else reference.term(measured_logp(reference.params))
    return Old(measured_logp(trainer.learner.params), kl)


def sampler_gap(batches: list[MiniBatch], olds: list[list[Old]]) -> float | None:
    """Nats by which the sampler's log-probs differ from the trainer's before the update, at the worst token that is trained on.

    None if no response has an advantage: then none is run.
    """
    parts = [part for batch in batches for part, _ in batch.parts]
    passes = zip(parts, (old for found in olds for old in found), strict=True)
    gaps = [np.abs(old.logp - part.logp)[part.mask].max() for part, old in passes if part.logp is not None]
    return float(np.max(gaps)) if gaps else None


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
    place = trainer.learner.place
    batch = place.rows((part.tokens, old_logp, advantage, Padded(part.mask), denominator, kl))
    pair: tuple[Predicting, LinearLoss] = differentiate(trainer.objective, trainer.config.temperature, place, states, *batch)
    return pair
