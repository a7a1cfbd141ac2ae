"""The parity run in JAX: the JAX trainer on the stored responses. on_torch.py has PyTorch's side and the command line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from integration.on_jax.rollout import Responses
from integration.on_jax.trainer import Trainer, prepare
from integration.on_jax.training import mini_batch, old_pass, update
from integration.on_jax.weights import named_weights
from integration.options.config import Config
from integration.parity.reference import START, Recorder, Rollout, Run, Update


def start(options: dict[str, Any], folder: Path) -> Trainer:
    """The trainer, as a run of these options would prepare it."""
    given = {**options, "task_args": tuple(options["task_args"])}
    return prepare(Config(**{"threads": 1, **given}, model=str(START), run_dir=folder))


def follow(trainer: Trainer, rollouts: Iterable[Rollout]) -> Run:
    """All updates on the rollouts, in the trainer's own dtype."""
    updates = [done for rollout in rollouts for done in one_rollout(trainer, rollout)]
    return Run(updates, named_weights(trainer.learner.params))


def one_rollout(trainer: Trainer, rollout: Rollout) -> Iterator[Update]:
    """One optimizer step per mini-batch of stored responses; as training.one_rollout takes with sampled ones."""
    pad = trainer.sampler.prompter.tokenizer.pad_token_id
    responses, planned = Responses(*rollout.padded(pad)), rollout.planned()
    advantages = np.asarray(planned.advantage, dtype=np.float32)
    batches = [mini_batch(trainer, responses, advantages, planned, np.asarray(rows)) for rows in rollout.mini_batches]
    olds = [[old_pass(trainer, part, batch.denominator) for part, _ in batch.parts] for batch in batches]
    for batch, old in zip(batches, olds, strict=True):
        seen = Recorder(trainer.objective)
        update(trainer, batch, old, seen)
        yield seen.update(named_weights(trainer.learner.params))
    trainer.step += 1


def widen(trainer: Trainer) -> None:
    """float64 throughout, where x64 is on."""
    learner = trainer.learner
    learner.params = jax.tree.map(lambda x: x.astype(jnp.float64), learner.params)
    learner.optimizer_state = learner.place.parameters(learner.optimizer.init(learner.params))
