"""A small Qwen3 of Tunix, and a cluster of Tunix's around it: a learner needs nothing more on a CPU."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from tunix.rl import rl_cluster
from tunix.rl.rollout.base_rollout import RolloutConfig

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports jax.experimental.shard_map
    from tunix.models.qwen3.model import ModelConfig, Qwen3

SIZES: dict[str, Any] = {
    "num_layers": 2,
    "vocab_size": 32,
    "embed_dim": 32,
    "hidden_dim": 64,
    "num_heads": 4,
    "head_dim": 8,
    "num_kv_heads": 2,
    "rope_theta": 10_000,
    "norm_eps": 1e-6,
    "use_tied_embedding": True,
}


class Numbers:
    """A tokenizer whose words are numbers from 3 to 31; 0 pads, 1 begins and 2 ends."""

    def encode(self, text: str, **_: Any) -> list[int]:
        """Ids of the words."""
        return [int(word) for word in text.split()]

    def decode(self, ids: Any, **_: Any) -> str:
        """Words of the ids."""
        return " ".join(str(int(x)) for x in ids)

    def pad_id(self) -> int:
        """0."""
        return 0

    def bos_id(self) -> int:
        """1."""
        return 1

    def eos_id(self) -> int:
        """2."""
        return 2


def model(seed: int = 0) -> Qwen3:
    """Random weights."""
    return Qwen3(ModelConfig(**SIZES), rngs=nnx.Rngs(seed))


def cluster(
    actor: Any,
    tokenizer: Any,
    optimizer: optax.GradientTransformation,
    steps: int,
    batch: dict[str, int],
    tokens: int,
    **rollout: Any,
) -> rl_cluster.RLCluster:
    """One device for every role. `batch` has mini_batch_size and train_micro_batch_size, in prompts."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("fsdp", "tp"))
    roles = (rl_cluster.Role.ACTOR, rl_cluster.Role.REFERENCE, rl_cluster.Role.ROLLOUT)
    training = rl_cluster.RLTrainingConfig(actor_optimizer=optimizer, eval_every_n_steps=10**6, max_steps=steps, **batch)
    sampled = {
        "temperature": 1.0,
        "top_p": 1.0,
        "max_prompt_length": 4,
        "kv_cache_size": 64,
        "return_logprobs": True,
        **rollout,
    }
    config = rl_cluster.ClusterConfig(
        role_to_mesh=dict.fromkeys(roles, mesh),
        rollout_engine="vanilla",
        training_config=training,
        rollout_config=RolloutConfig(max_tokens_to_generate=tokens, **sampled),
    )
    return rl_cluster.RLCluster(actor=actor, tokenizer=tokenizer, cluster_config=config)


def logged(made: rl_cluster.RLCluster) -> list[dict[str, float]]:
    """What the trainer logs from now on, a dictionary per optimizer step."""
    steps: list[dict[str, float]] = []

    def keep(loss: Any, additional_metrics: Any = None, **_: Any) -> None:
        steps.append({"loss": float(loss), **{name: float(x) for name, x in (additional_metrics or {}).items()}})

    made.actor_trainer._log_metrics = keep
    return steps


@contextlib.contextmanager
def loose_jax() -> Iterator[None]:
    """JAX's own rules of promotion, on which Tunix relies, in every thread: its learner samples in one of its own."""
    names = ("jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, ("standard", "allow"), strict=True):
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
