"""OpenRLHF, Tunix, torchrl and EasyDeL."""

from support.trainers.crosswalk import Row
from support.trainers.crosswalk_rows.words import DUAL, GSPO, PPO

GOOD = "loss and gradient, for A > 0"

OPENRLHF = [
    Row("OpenRLHF", {}, f"token mean of {PPO}", "DAPO.with_clip(0.2, 0.2)"),
    Row("OpenRLHF", {"eps_clip_low_high": (0.2, 0.28)}, f"token mean of {PPO}", "DAPO"),
    Row("OpenRLHF", {"loss_agg_mode": "seq-mean-token-mean"}, f"response mean of {PPO}", "GRPO"),
    Row("OpenRLHF", {"dual_clip": 3.0}, f"token mean of {DUAL}", "Objective(Token(), DualClip(0.2, 0.2, 3.0), TokenMean())"),
    Row(
        "OpenRLHF",
        {"policy_loss_type": "gspo", "eps_clip_low_high": (3e-4, 4e-4)},
        f"response mean of {GSPO}, whatever loss_agg_mode",
        "GSPO",
    ),
]

TUNIX = [
    Row("Tunix", {}, f"response mean of {PPO}", "GRPO", kind="GRPOConfig"),
    Row("Tunix", {"loss_agg_mode": "token-mean"}, f"token mean of {PPO}", "DAPO.with_clip(0.2, 0.2)", kind="GRPOConfig"),
    Row(
        "Tunix",
        {"loss_agg_mode": "sequence-mean-token-scale"},
        f"sum of {PPO}, / (T N), T the padded length",
        "replace(DR_GRPO, reduction=FixedLength(T))",
        kind="GRPOConfig",
    ),
    Row(
        "Tunix",
        {"loss_agg_mode": "seq-mean-token-sum"},
        f"sum of {PPO}, / N",
        "replace(GRPO, reduction=FixedLength(1))",
        kind="GRPOConfig",
    ),
    Row("Tunix", {"loss_algo": "gspo-token"}, f"response mean of {GSPO}", "GSPO_TOKEN.with_clip(0.2, 0.2)", kind="GRPOConfig"),
    Row("Tunix", {}, f"token mean of {PPO}", "DAPO", kind="DAPOConfig"),
    Row(
        "Tunix",
        {},
        f"sum of {PPO}, / (T N), T the padded length",
        "replace(DR_GRPO, reduction=FixedLength(T))",
        kind="DrGRPOConfig",
    ),
    Row(
        "Tunix",
        {"epsilon_c": 3.0},
        f"token mean of {DUAL}",
        "Objective(Token(), DualClip(0.2, 0.2, 3.0), TokenMean())",
        kind="PPOConfig",
    ),
    Row(
        "Tunix",
        {"beta": 0.04},
        "response mean of min(w A, clip(w) A) − 0.04 k1",
        "policy_loss(GRPO, logp, old_logp, A, layout)"
        " + 0.04 * kl_penalty(K1(), logp, ref_logp, layout, reduction=SequenceMean())",
        kind="GRPOConfig",
    ),
    Row(
        "Tunix",
        {"beta": 0.04, "kl_loss_mode": "mse_kl"},
        "response mean of min(w A, clip(w) A) − 0.04 k2",
        "policy_loss(GRPO, logp, old_logp, A, layout)"
        " + 0.04 * kl_penalty(K2(), logp, ref_logp, layout, reduction=SequenceMean())",
        kind="GRPOConfig",
    ),
    Row(
        "Tunix",
        {"beta": 0.04, "kl_loss_mode": "low_var_kl"},
        "response mean of min(w A, clip(w) A) − 0.04 k3",
        "policy_loss(GRPO, logp, old_logp, A, layout)"
        " + 0.04 * kl_penalty(K3(), logp, ref_logp, layout, reduction=SequenceMean())",
        kind="GRPOConfig",
    ),
]

TORCHRL = [
    Row("torchrl", {}, f"token mean of {PPO}", "DAPO.with_clip(0.2, 0.2)", kind="GRPOLoss"),
    Row("torchrl", {"aggregation": "prompt_mean"}, f"response mean of {PPO}", "GRPO", kind="GRPOLoss"),
    Row("torchrl", {"clip_epsilon": (0.2, 0.28)}, f"token mean of {PPO}", "DAPO", kind="DAPO"),
    Row(
        "torchrl",
        {"clip_epsilon": (0.5, 4.0)},
        "token mean of clip(w) A, the gradient of w A inside of both bounds and 0 outside, without log π",
        "replace(CISPO, surrogate=BandWeight(0.5, 5.0))",
        "gradient",
        kind="CISPOLoss",
    ),
]

EASYDEL = [
    Row("EasyDeL", {}, f"token mean of {PPO} for A > 0", "DAPO.with_clip(0.2, 0.2)", GOOD, "GRPOConfig"),
    Row("EasyDeL", {}, "token mean of max(w A, clip(w) A) for A < 0", "DAPO.with_clip(0.2, 0.2)", "differs", "GRPOConfig"),
    Row("EasyDeL", {"loss_type": "bnpo"}, f"token mean of {PPO} for A > 0", "BNPO", GOOD, "GRPOConfig"),
    Row("EasyDeL", {"loss_type": "grpo"}, f"response mean of {PPO} for A > 0", "GRPO", GOOD, "GRPOConfig"),
    Row(
        "EasyDeL",
        {"loss_type": "dr_grpo"},
        f"sum of {PPO}, / (T N), T the padded length, for A > 0",
        "replace(DR_GRPO, reduction=FixedLength(T))",
        GOOD,
        "GRPOConfig",
    ),
    Row(
        "EasyDeL",
        {"loss_type": "cispo", "epsilon_high": 5.0},
        "token mean of min(w, 5) A log π, whose weight is not held constant",
        "CISPO",
        "differs",
        "GRPOConfig",
    ),
    Row(
        "EasyDeL",
        {"beta": 0.04},
        "token mean of min(w A, clip(w) A) − 0.04 k3, for A > 0",
        "policy_loss(DAPO.with_clip(0.2, 0.2), logp, old_logp, A, layout)"
        " + 0.04 * kl_penalty(K3(), logp, ref_logp, layout, reduction=TokenMean())",
        GOOD,
        "GRPOConfig",
    ),
    Row("EasyDeL", {}, f"response mean of {GSPO} for A > 0", "GSPO", GOOD, "GSPOConfig"),
    Row("EasyDeL", {}, "response mean of max(s A, clip(s) A) for A < 0", "GSPO", "differs", "GSPOConfig"),
]
