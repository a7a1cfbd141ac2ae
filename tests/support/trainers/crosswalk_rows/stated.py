"""What docs/crosswalk.md states of each trainer beside its rows: defaults, rows without a token, names of metrics."""

from __future__ import annotations

from typing import Any

DEFAULTS: dict[str, dict[str, Any]] = {
    "TRL": {
        "loss_type": "dapo", "importance_sampling_level": "token", "epsilon": 0.2, "epsilon_high": None, "delta": None,
        "beta": 0.0, "use_bias_correction_kl": True, "entropy_coef": 0.0, "scale_rewards": "group", "num_iterations": 1,
        "mask_truncated_completions": False, "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None,
        "vllm_importance_sampling_mode": "sequence_mask", "vllm_importance_sampling_clip_max": 3.0,
    },
    "verl": {
        "policy_loss.loss_mode": "vanilla", "loss_agg_mode": "token-mean", "clip_ratio": 0.2, "clip_ratio_low": 0.2,
        "clip_ratio_high": 0.2, "clip_ratio_c": 3.0, "use_kl_loss": False, "kl_loss_coef": 0.001,
        "kl_loss_type": "low_var_kl", "entropy_coeff": 0, "ppo_epochs": 1,
    },
    "OpenRLHF": {
        "actor.policy_loss_type": "ppo", "actor.loss_agg_mode": "token-mean", "actor.eps_clip": 0.2, "actor.dual_clip": None,
        "algo.advantage.estimator": "gae", "algo.kl.init_coef": 0.01, "algo.kl.estimator": "k1", "algo.kl.use_loss": False,
        "actor.entropy_coef": None,
    },
    "SkyRL": {
        "policy_loss_type": "regular", "loss_reduction": "token_mean", "eps_clip_low": 0.2, "eps_clip_high": 0.2,
        "clip_ratio_c": 3.0, "use_kl_loss": True, "kl_loss_coef": 0.001, "kl_estimator_type": "k3", "use_entropy_loss": False,
        "advantage_estimator": "grpo", "grpo_norm_by_std": True,
    },
    "Tunix": {
        "policy_loss_fn": "grpo", "loss_algo": "grpo", "loss_agg_mode": "sequence-mean-token-mean", "epsilon": 0.2,
        "beta": 0.04, "kl_loss_mode": "kl", "advantage_estimator": "grpo", "num_iterations": 1,
    },
    "torchrl": {
        "clip_epsilon": 0.2, "aggregation": "token_mean", "entropy_bonus": True, "entropy_coeff": 0.01, "kl_to_ref_coeff": None,
        "kl_to_inference_coeff": None, "kl_mask_threshold": None,
    },
    "Liger-Kernel": {
        "loss_type": "dapo", "importance_sampling_level": "token", "epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.04,
        "delta": None, "use_bias_correction_kl": False, "temperature": 1.0,
    },
    "EasyDeL": {
        "loss_type": "dapo", "importance_sampling_level": "token", "epsilon": 0.2, "epsilon_high": None, "beta": 0.04,
        "delta": None, "scale_rewards": "group", "num_iterations": 1,
    },
}  # fmt: skip
"""Of the options that decide about the loss, by the trainer's names."""

COUNTED, LEFT_OUT = "counted", "left out"
EMPTY_ROWS: dict[str, str] = {
    "TRL": COUNTED,
    "verl": LEFT_OUT,
    "OpenRLHF": LEFT_OUT,
    "SkyRL": COUNTED,
    "Tunix": LEFT_OUT,
    "torchrl": COUNTED,
    "Liger-Kernel": COUNTED,
    "EasyDeL": COUNTED,
}
"""Rows without a token, in the number by which a mean over responses divides."""

ADVANTAGES: dict[str, str] = {
    "verl": "ZScore(ddof=1, eps=1e-6)",
    "SkyRL": "ZScore(ddof=1, eps=1e-6)",
    "Tunix": "ZScore(ddof=1, eps=1e-6)",
}
"""Of the estimator "grpo", where the trainer has a function for it, as an argument of `group_advantages`."""

METRICS: dict[str, list[str]] = {
    "TRL": ["clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean", "kl", "entropy", "frac_reward_zero_std"],
    "verl": ["actor/pg_clipfrac", "actor/pg_clipfrac_lower", "actor/ppo_kl", "actor/entropy", "kl_loss"],
    "OpenRLHF": ["ppo_clip_ratio", "ppo_kl", "kl", "entropy_loss", "vllm_kl", "group_reward_std"],
    "SkyRL": ["clip_ratio", "policy_kl", "policy_entropy", "is_ratio_mean"],
    "Tunix": ["pg_clipfrac", "pg_clipfrac_lower", "ppo_kl", "is_ratio/mean", "is_ratio/max", "is_ratio/min", "kl", "entropy",
              "advantage/nonzero_frac"],
    "torchrl": ["clip_fraction", "kl_approx", "entropy", "ESS", "kl_to_ref"],
    "EasyDeL": ["clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean", "mean_kl", "frac_reward_zero_std"],
}  # fmt: skip
"""Names that the page puts beside ours."""
