"""Tunix: policy losses for its GRPOLearner. Every preset is there by its name, and `register` adds an objective of yours.

    from gspo_jax.trainers import tunix as adapter

    config = GRPOConfig(policy_loss_fn="gspo_core_gspo", epsilon=None, loss_agg_mode=None, beta=0.0, num_generations=8)
    learner = GRPOLearner(cluster, config, reward_fns=...)
    cluster.actor_trainer.with_rl_metrics_to_log(adapter.LOGGED)

What an objective says, options cannot contradict: `epsilon`, `epsilon_high`, `epsilon_c` and `loss_agg_mode` are None, or what
the objective has. `beta`, `kl_loss_mode` and `kl_clamp_value` add Tunix's KL term. With packed sequences a response is a
segment of the pack.

Tunix 0.1.7 averages over the micro-batches of a step, each divided by its own count: that is the loss of the whole step if
every micro-batch has as many responses (for a mean over tokens: as many tokens). Tunix's repository takes a sum and a
denominator, LossOutput, and the loss is that of the whole step whatever the micro-batches are. A loss returns what the
installed Tunix takes.
"""

import importlib.util

from .log import LOGGED
from .loss import register, tunix_loss

__all__ = ["LOGGED", "register", "tunix_loss"]

if importlib.util.find_spec("tunix") is not None:
    from .loss import register_presets

    register_presets()
    del register_presets
