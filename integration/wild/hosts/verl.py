"""verl: the policy loss registered as gspo, with its own `ActorConfig`."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from gspo_core import GSPO
from gspo_core.objectives import DAPO, GMPO, SAPO, DualClip
from integration.wild.host import Host, Loss, Option

VANILLA = dataclasses.replace(DAPO, surrogate=DualClip(0.2, 0.2, 3.0))


def loss(mode: str = "gspo", policy_loss: dict[str, Any] | None = None, **settings: Any) -> Loss:
    """The loss of one process whose micro-batch is the whole batch; `policy_loss` are options of a PolicyLossConfig."""
    algorithms = importlib.import_module("verl.trainer.ppo.core_algos")
    configs = importlib.import_module("verl.workers.config")
    settings = {"strategy": "fsdp", "rollout_n": 1, "ppo_micro_batch_size_per_gpu": 1, **settings}
    if policy_loss:
        settings["policy_loss"] = importlib.import_module("verl.workers.config.actor").PolicyLossConfig(**policy_loss)
    actor = configs.ActorConfig(**settings)
    actor.global_batch_info["loss_scale_factor"] = actor.loss_scale_factor  # as verl's ppo_loss does
    function = algorithms.get_policy_loss_fn(mode)

    def call(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        tokens = advantage if advantage.ndim == 2 else advantage[:, None].expand(mask.shape)
        return function(old_logp, logp, tokens, mask, actor.loss_agg_mode, actor)

    return call


RECIPE: dict[str, Any] = {"loss_agg_mode": "seq-mean-token-mean", "clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}

VERL = Host(
    "verl",
    "verl",
    "the function that get_policy_loss_fn returns, with an ActorConfig; one process, and no global batch size",
    (
        Option("ActorConfig()", "the defaults: loss_mode=vanilla, PPO with a dual clip", lambda: loss("vanilla"), VANILLA),
        Option("loss_mode=gspo", "the option alone, loss_agg_mode at its default", loss, GSPO.with_clip(0.2, 0.2)),
        Option(
            "loss_mode=sapo, loss_agg_mode=seq-mean-token-mean",
            "the docstring of compute_policy_loss_sapo recommends the aggregation",
            lambda: loss("sapo", loss_agg_mode="seq-mean-token-mean"),
            SAPO,
        ),
        Option(
            "loss_mode=geo_mean, clip_ratio_low=0.4, clip_ratio_high=0.4",
            "the docstring of compute_policy_loss_geo_mean; the clip range is the paper's",
            lambda: loss("geo_mean", clip_ratio_low=0.4, clip_ratio_high=0.4),
            GMPO,
        ),
        Option(
            "loss_mode=gspo, loss_agg_mode=seq-mean-token-mean, clip_ratio_low=3e-4, clip_ratio_high=4e-4",
            "the docstring of compute_policy_loss_gspo recommends the aggregation; the clip range is the paper's",
            lambda: loss(**RECIPE),
        ),
    ),
    "set loss_agg_mode=seq-mean-token-mean; the default is token-mean for gspo, too",
)
