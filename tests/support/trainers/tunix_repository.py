"""A program for a checkout of Tunix's repository in front of the installed release: what its learner makes of our loss.

    PYTHONPATH=<checkout>:.:backends:tests python -W ignore -m support.trainers.tunix_repository

prints, as JSON, how far a step of two unequal micro-batches is from the paper's loss and gradient for the whole, on rows and
on packs, beside the mean of means, which it must not be; and the rewards and the log of two trainings, the first with its
default, the sampler's log-probs as old ones, the second with use_rollout_logps=False.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from gspo_jax.trainers import tunix as adapter
from support.trainers.paper import paper
from support.trainers.tunix_training import Numbers, cluster, logged, loose_jax, model
from tunix.rl import common, utils
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner, TrainExample

from gspo_core import GSPO

LENGTHS = (6, 2, 4, 1)
"""The first three in one micro-batch, the last in the other."""
CLIP = 3e-4, 4e-4


class Whole(NamedTuple):
    """Responses to prompts of two tokens, in NumPy."""

    prompts: Any
    responses: Any
    mask: Any
    old: Any
    advantage: Any


def whole(actor: Any) -> Whole:
    """Old log-probs are near the model's, so that some responses are clipped and some are not."""
    rng, width = np.random.default_rng(0), max(LENGTHS)
    mask = np.arange(width) < np.array(LENGTHS)[:, None]
    tokens = np.where(mask, rng.integers(3, 32, mask.shape), 0).astype(np.int32)
    prompts = rng.integers(3, 32, (len(LENGTHS), 2)).astype(np.int32)
    made = Whole(prompts, tokens, mask, np.zeros(mask.shape, np.float32), np.array([1.0, -0.5, 0.7, 2.0], np.float32))
    moved = np.array([[1e-4], [1e-2], [1e-2], [-1e-4]], np.float32)
    return made._replace(old=np.asarray(log_probs(actor, example(made, slice(None)))) - moved)


def example(given: Whole, chosen: slice) -> TrainExample:
    """A micro-batch of rows."""
    part = Whole(*(x[chosen] for x in given))
    return TrainExample(
        prompt_ids=jnp.asarray(part.prompts),
        prompt_mask=jnp.ones(part.prompts.shape, dtype="int32"),
        completion_ids=jnp.asarray(part.responses),
        completion_mask=jnp.asarray(part.mask),
        advantages=jnp.asarray(part.advantage),
        ref_per_token_logps=None,
        old_per_token_logps=jnp.asarray(part.old),
    )


def packs(given: Whole, parts: list[slice]) -> list[TrainExample]:
    """By Tunix's own packing: a mini-batch of one pack each, then marked as parts of one step."""
    made = []
    for chosen in parts:
        rows = jax.tree.map(np.asarray, example(given, chosen))
        size = len(range(*chosen.indices(len(LENGTHS))))
        (found,) = (one for pack in utils.pack_sequences(iter([[rows]]), 24, sequences_per_update=size) for one in pack)
        made.append(found.replace(is_update_step=jnp.array([chosen is parts[-1]])))
    return made


def log_probs(actor: Any, batch: TrainExample, state: Any = None) -> Any:
    """Tunix's own."""
    graph, own = nnx.split(actor)
    where = {name: getattr(batch, name) for name in ("segment_ids", "segment_positions")}
    ids = batch.prompt_ids, batch.completion_ids
    return common.compute_per_token_logps(
        graph, own if state is None else state, *ids, pad_id=0, eos_id=2, stop_gradient=False, **where
    )


def expected(actor: Any, given: Whole, batches: list[TrainExample]) -> tuple[float, Any, float]:
    """The paper's loss of all responses, its gradient with respect to the parameters, and a mean of means."""
    _, state = nnx.split(actor)
    places = [np.asarray(batch.completion_mask) > 0 for batch in batches]
    found, pull = jax.vjp(lambda s: [log_probs(actor, batch, s) for batch in batches], state)
    tokens = np.concatenate([np.asarray(x)[at] for x, at in zip(found, places, strict=True)])
    order = [row for batch in batches for row in _rows(given, batch)]
    logp = np.zeros(given.mask.shape)
    ends = np.cumsum([LENGTHS[i] for i in order])
    for i, own in zip(order, np.split(tokens, ends[:-1]), strict=True):
        logp[i, : LENGTHS[i]] = own
    args = logp, given.old, given.advantage, given.mask
    exact = paper("GSPO", *args)
    gradient = np.split(
        np.concatenate([exact.grad[i, : LENGTHS[i]] for i in order]), np.cumsum([at.sum() for at in places])[:-1]
    )
    upstream = [np.zeros(at.shape, np.float32) for at in places]
    for slots, at, values in zip(upstream, places, gradient, strict=True):
        slots[at] = values
    (wanted,) = pull([jnp.asarray(x) for x in upstream])
    means = [paper("GSPO", *(x[list(_rows(given, batch))] for x in args)).value for batch in batches]
    return exact.value, wanted, float(np.mean(means))


def _rows(given: Whole, batch: TrainExample) -> list[int]:
    """Which responses a batch has, in the order of its tokens: by their tokens, of which no two are alike."""
    ids, mask = np.asarray(batch.completion_ids), np.asarray(batch.completion_mask) > 0
    rest, order = ids[mask].tolist(), []
    while rest:
        (row,) = (i for i, n in enumerate(LENGTHS) if given.responses[i, :n].tolist() == rest[:n])
        order.append(row)
        rest = rest[LENGTHS[row] :]
    return order


def step(packed: bool) -> dict[str, float]:
    """One optimizer step of SGD with a rate of 1, so that what moved is the gradient."""
    actor, parts = model(), [slice(0, 3), slice(3, 4)]
    given = whole(actor)
    batches = packs(given, parts) if packed else [example(given, chosen) for chosen in parts]
    value, wanted, means = expected(actor, given, batches)
    batch: dict[str, int] = {"mini_batch_size": 2} | (
        {"max_seq_token_per_tpu": 24} if packed else {"train_micro_batch_size": 1}
    )
    made = cluster(actor, Numbers(), optax.sgd(1.0), 1, batch, tokens=6)
    name = adapter.register("repository", GSPO.with_clip(*CLIP))
    config = GRPOConfig(policy_loss_fn=name, epsilon=None, loss_agg_mode=None, beta=0.0, num_generations=2)
    GRPOLearner(made, config, lambda completions, **_: [0.0] * len(completions))
    log, before = logged(made), jax.tree.map(jnp.copy, nnx.state(made.actor_trainer.model))
    made.update_actor(iter(batches), None, False)
    made.actor_trainer._write_train_metrics()
    moved = jax.tree.map(lambda a, b: a - b, before, nnx.state(made.actor_trainer.model))
    ours, theirs = (jax.tree.leaves(x) for x in (moved, wanted))
    assert len(log) == 1
    assert made.actor_trainer.train_steps == 1
    return {
        "loss": abs(log[0]["loss"] - value),
        "gradient": max(float(jnp.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)),
        "largest gradient": max(float(jnp.abs(b).max()) for b in theirs),
        "mean of means": abs(means - value),
        "clip_active": log[0]["gspo/clip_active"],
    }


def training(rollout_logps: bool, rollouts: int) -> dict[str, Any]:
    """Rollouts, two iterations over each, in two micro-batches: the reward is the share of small numbers."""
    batch = {"mini_batch_size": 4, "train_micro_batch_size": 2}
    made = cluster(model(), Numbers(), optax.adam(1e-2), 2 * rollouts, batch, tokens=6)
    seen: list[float] = []

    def reward(completions: list[str], **_: Any) -> list[float]:
        found = [float(np.mean([int(word) < 12 for word in text.split()] or [0])) for text in completions]
        seen.append(float(np.mean(found)))
        return found

    name, own = adapter.register("repository", GSPO.with_clip(0.1, 0.1)), {"num_generations": 6, "num_iterations": 2}
    said = {"epsilon": None, "loss_agg_mode": None, "beta": 0.0, "use_rollout_logps": rollout_logps, **own}
    config = GRPOConfig(policy_loss_fn=name, **said)
    learner = GRPOLearner(made, config, reward)
    log = logged(made)
    learner.train([{"prompts": ["3 4", "5 6 7", "8", "9 10"]} for _ in range(rollouts)])
    numbers = {key: [one[key] for one in log] for key in log[0]}
    return {"first": float(np.mean(seen[:4])), "last": float(np.mean(seen[-4:])), "log": numbers}


if __name__ == "__main__":
    with loose_jax():
        found: dict[str, Any] = {"rows": step(packed=False), "packs": step(packed=True)}
        print(json.dumps({**found, "training": training(True, 12), "its own old log-probs": training(False, 4)}))
