"""The twenty reference updates through Tunix's learner: its Qwen3, its trainer and its accumulation, our loss by its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from gspo_jax.trainers.tunix import loss as adapter
from support.trainers.tunix_batches import registered
from support.trainers.tunix_training import SIZES, Numbers, cluster, logged, loose_jax
from tunix.models.qwen3 import model as qwen3
from tunix.models.qwen3.params import create_model_from_safe_tensors
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner, TrainExample

from gspo_core import GSPO
from integration.parity.reference import CLIP, START, Golden, Rollout, Run, Update, marks

GROUP, PROMPTS, MINI_BATCHES = 6, 2, 4
"""Responses to a prompt, and what Tunix calls prompts in a mini-batch: 12 of the rollout's 48 responses, in any order."""


class Stored(GRPOLearner):
    """Takes stored responses in place of sampled ones; everything after that is Tunix's."""

    golden: Golden
    taken: int
    old: Any

    def _generate_and_compute_advantage(self, training_input: Any, mode: Any = None) -> TrainExample:
        rollout, number = self.golden.rollouts[self.taken // MINI_BATCHES], self.taken % MINI_BATCHES
        assert len(training_input["prompts"]) == GROUP * PROMPTS
        prompts, prompt_mask, ids, mask = (jnp.asarray(x) for x in narrow(rollout))
        if number == 0:  # before the first of the rollout's updates
            self.old = self.rl_cluster.get_old_per_token_logps(prompts, ids)
        self.taken += 1
        rows = np.array(rollout.mini_batches[number])
        return TrainExample(
            prompt_ids=prompts[rows],
            prompt_mask=prompt_mask[rows],
            completion_ids=ids[rows],
            completion_mask=mask[rows],
            ref_per_token_logps=None,
            advantages=jnp.asarray(rollout.planned().advantage[rows], dtype=jnp.float32),
            old_per_token_logps=self.old[rows],
        )


def narrow(rollout: Rollout) -> list[Any]:
    """JAX's integers."""
    return [x.astype(np.int32) if x.dtype == np.int64 else x for x in rollout.padded(0)]


def follow(golden: Golden, micro_batches: int) -> Run:
    """All updates. The norm of a gradient is what Tunix logs, the mean of its micro-batches': the whole's if there is one."""
    kept = {"vocab_size": 109, "hidden_dim": 96}
    model = create_model_from_safe_tensors(str(START), qwen3.ModelConfig(**{**SIZES, **kept}))
    options = golden.options
    adamw = optax.adamw(lambda count: options["lr"] * jnp.minimum(1.0, (count + 1) / options["lr_warm_up"]), weight_decay=0.0)
    optimizer = optax.chain(optax.clip_by_global_norm(options["max_grad_norm"]), adamw)
    batch = {"mini_batch_size": PROMPTS, "train_micro_batch_size": PROMPTS // micro_batches}
    batch |= {"rollout_micro_batch_size": PROMPTS, "compute_logps_micro_batch_size": PROMPTS}
    updates: list[Update] = []
    # Tunix 0.1.7 turns by the base 1,000,000 whatever its ModelConfig.rope_theta says.
    turned = mock.patch.object(qwen3, "apply_rope", partial(qwen3.apply_rope, rope_theta=SIZES["rope_theta"]))
    with loose_jax(), every_response(), turned:
        made = cluster(model, Numbers(), optimizer, 20, batch, tokens=options["max_new_tokens"])
        name = registered(GSPO.with_clip(CLIP.low, CLIP.high))
        config = GRPOConfig(policy_loss_fn=name, epsilon=None, loss_agg_mode=None, beta=0.0, num_generations=GROUP)
        learner = Stored(made, config, lambda completions, **_: [0.0] * len(completions))
        learner.golden, learner.taken = golden, 0
        trainer, parts = made.actor_trainer, list[Any]()

        def keep(aux: Any) -> None:
            parts.append({name: np.asarray(aux[name]) for name in ("pg_loss", "log_ratio", "clipped")})
            if len(parts) % micro_batches == 0:
                updates.append(update(golden, len(updates), parts[-micro_batches:], weights(trainer.model)))

        trainer._post_process_train_step = keep
        log = logged(made)
        learner.train([{"prompts": np.array(["3"] * PROMPTS)} for _ in range(20)])
    whole = [replace(one, grad_norm=step["grad_norm"]) for one, step in zip(updates, log, strict=True)]
    return Run(whole, weights(trainer.model))


def update(golden: Golden, index: int, parts: list[dict[str, Any]], parameters: dict[str, np.ndarray]) -> Update:
    """What a step's micro-batches have computed, but the norm: of the responses that have an advantage, in their order."""
    rollout = golden.rollouts[index // MINI_BATCHES]
    live = rollout.planned().advantage[rollout.mini_batches[index % MINI_BATCHES]] != 0
    log_s, clipped = (np.concatenate([part[name] for part in parts])[live].tolist() for name in ("log_ratio", "clipped"))
    loss = float(np.mean([part["pg_loss"] for part in parts]))
    return Update(loss, float("nan"), log_s, clipped, marks(parameters))


@contextmanager
def every_response() -> Iterator[None]:
    """Log s and the clip decision of each response, beside what the adapter logs."""

    def more(batch: Any, loss: Any, kl: Any, config: Any) -> dict[str, Any]:
        return {**logged_by_us(batch, loss, kl, config), "log_ratio": loss.log_ratio, "clipped": loss.clipped}

    logged_by_us = adapter.logged
    with mock.patch.object(adapter, "logged", more):
        yield


def weights(model: Any) -> dict[str, np.ndarray]:
    """With transformers' names and orientation."""
    return dict(_weight(path, np.asarray(x[...])) for path, x in nnx.to_flat_state(nnx.state(model, nnx.Param)))


def _weight(path: tuple[Any, ...], x: np.ndarray) -> tuple[str, np.ndarray]:
    *where, last = map(str, path)
    name = ".".join(where).replace("attn.", "self_attn.", 1)
    if last == "input_embedding":
        return "model.embed_tokens.weight", x
    if name == "final_norm":
        return "model.norm.weight", x
    if x.ndim == 3:
        x = x.reshape(-1, x.shape[-1]) if name.endswith("o_proj") else x.reshape(x.shape[0], -1)
    return f"model.{name}.weight", x.T
