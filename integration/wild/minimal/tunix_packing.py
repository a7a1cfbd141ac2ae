"""Tunix: with sequence packing, loss_algo="gspo-token" takes one importance ratio for all the responses of a packed row.

    pip install google-tunix && python tunix_packing.py

Log-probs stand in the place of a model; packing and loss are Tunix's own.
"""

from unittest import mock

import jax.numpy as jnp
import numpy as np
from tunix.rl import algo_core, common, utils
from tunix.rl.grpo.grpo_learner import GRPOConfig

OLD = np.full((2, 2), -1.0, dtype=np.float32)
LOGP = OLD + np.array([[0.05], [-0.02]], dtype=np.float32)  # of two responses: s = 1.051 and 0.980
CONFIG = GRPOConfig(beta=0.0, loss_algo="gspo-token", epsilon=0.03)
CONFIG.temperature = 1.0  # the learner sets it


def example(old: np.ndarray) -> common.TrainExample:
    """Two responses of two tokens to prompts of one token, with opposite advantages."""
    ones = np.ones((2, 2), dtype=np.int32)
    return common.TrainExample(
        prompt_ids=ones[:, :1], prompt_mask=ones[:, :1], completion_ids=ones, completion_mask=ones,
        advantages=np.array([1.0, -1.0], dtype=np.float32), ref_per_token_logps=None, old_per_token_logps=old,
    )  # fmt: skip


def loss(batch: common.TrainExample, logp: np.ndarray) -> float:
    """Tunix's, at these log-probs."""
    logits = jnp.zeros((*logp.shape, 2))
    split = mock.patch.object(algo_core.nnx, "split", return_value=(None, None))
    run = mock.patch.object(algo_core.common, "compute_per_token_logps", return_value=(jnp.asarray(logp), logits))
    with split, run:
        return float(algo_core.grpo_loss_fn(None, batch, CONFIG, 0, 1)[0])


((packed,),), ((moved,),) = (utils.pack_sequences(iter([[example(x)]]), 8) for x in (OLD, LOGP))
print(f"two rows:   {loss(example(OLD), LOGP):.6f}")
print(f"one packed: {loss(packed, moved.old_per_token_logps):.6f}")
print(f"paper:      {-(1.03 - np.exp(-0.02)) / 2:.6f}")
