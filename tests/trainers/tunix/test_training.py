"""A training in Tunix's own learner, on a CPU: its Qwen3, its sampler, its optimizer, and our loss by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import optax
from gspo_jax.trainers.tunix import LOGGED
from support.trainers.tunix_batches import registered
from support.trainers.tunix_training import Numbers, cluster, logged, loose_jax, model
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner

from gspo_core import GSPO, GSPO_TOKEN


def share_of_small_numbers(completions: list[str], **_: Any) -> list[float]:
    """The reward: how many of a response's numbers are below 12."""
    return [float(np.mean([int(word) < 12 for word in text.split()] or [0])) for text in completions]


def train(loss: str, steps: int, rewards: list[float] | None = None, **options: Any) -> list[dict[str, float]]:
    """The log of every optimizer step: two iterations over each rollout of 4 prompts with 6 responses, in two micro-batches."""
    made = cluster(model(), Numbers(), optax.adam(1e-2), steps, {"mini_batch_size": 4, "train_micro_batch_size": 2}, tokens=6)
    seen = [] if rewards is None else rewards

    def reward(completions: list[str], **_: Any) -> list[float]:
        found = share_of_small_numbers(completions)
        seen.append(float(np.mean(found)))
        return found

    said = {"epsilon": None, "loss_agg_mode": None, "beta": 0.0, **options}
    learner = GRPOLearner(made, GRPOConfig(policy_loss_fn=loss, num_generations=6, num_iterations=2, **said), reward)
    if loss != "grpo":
        made.actor_trainer.with_rl_metrics_to_log(LOGGED)
    log = logged(made)
    with loose_jax():
        learner.train([{"prompts": ["3 4", "5 6 7", "8", "9 10"]} for _ in range(steps // 2)])
    return log


def test_the_reward_rises() -> None:
    """And what is logged makes sense: nothing is clipped in the first pass over a rollout, something in later ones."""
    rewards: list[float] = []
    log = train(registered(GSPO.with_clip(0.1, 0.1)), 24, rewards)
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.3
    assert len(log) == 24
    first, second = log[0::2], log[1::2]
    assert max(step["gspo/log_s_rms"] for step in first) < 1e-5
    assert max(step["gspo/clip_active"] for step in first) == 0.0
    assert max(step["gspo/clip_active"] for step in second) > 0.1
    assert all(np.isfinite(list(step.values())).all() for step in log)
    assert set(LOGGED) <= set(log[0])


def test_the_trajectory_is_that_of_tunix_own_loss() -> None:
    """Six optimizer steps on three rollouts with its gspo-token: losses and norms of gradients."""
    said = {"epsilon": 0.2, "loss_agg_mode": "sequence-mean-token-mean", "loss_algo": "gspo-token"}
    theirs, ours = (train(name, 6, **said) for name in ("grpo", registered(GSPO_TOKEN.with_clip(0.2, 0.2))))
    for one, other in zip(theirs, ours, strict=True):
        for name in ("loss", "grad_norm", "pg_clipfrac"):
            assert abs(one[name] - other[name]) <= 1e-4, name
    assert max(step["grad_norm"] for step in theirs) > 0.1


def test_packs_train_too() -> None:
    """max_seq_token_per_tpu: on policy the loss of a pack is minus the mean advantage of its responses."""
    with loose_jax():
        made = cluster(model(), Numbers(), optax.sgd(1e-2), 2, {"mini_batch_size": 2, "max_seq_token_per_tpu": 100}, tokens=6)
        config = GRPOConfig(policy_loss_fn="gspo_core_gspo", epsilon=None, loss_agg_mode=None, beta=0.0, num_generations=4)
        learner = GRPOLearner(made, config, share_of_small_numbers)
        made.actor_trainer.with_rl_metrics_to_log({**LOGGED, "advantage/max": np.max, "log_ratio/abs_mean": np.max})
        log = logged(made)
        learner.train([{"prompts": np.array(["3 4", "5"])} for _ in range(2)])
    assert len(log) == 2
    for step in log:
        assert abs(step["loss"]) <= 1e-6  # advantages of a group add up to 0
        assert step["log_ratio/abs_mean"] == step["gspo/clip_active"] == 0.0
        assert step["advantage/max"] > 0.5
        assert step["grad_norm"] > 0.01
