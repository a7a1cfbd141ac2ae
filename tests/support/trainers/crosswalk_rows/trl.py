"""TRL, and Liger-Kernel, whose loss has TRL's options."""

from support.trainers.crosswalk import Row
from support.trainers.crosswalk_rows.words import GSPO, OVER_TOKENS, PPO, SEQUENCE

PAPER = {"epsilon": 3e-4, "epsilon_high": 4e-4}

TRL = [
    Row("TRL", {}, f"token mean of {PPO}", "DAPO.with_clip(0.2, 0.2)"),
    Row("TRL", {"epsilon_high": 0.28}, f"token mean of {PPO}", "DAPO"),
    Row("TRL", {"loss_type": "bnpo"}, f"token mean of {PPO}, of each micro-batch", "BNPO"),
    Row("TRL", {"loss_type": "grpo"}, f"response mean of {PPO}", "GRPO"),
    Row(
        "TRL",
        {"loss_type": "dr_grpo", "max_completion_length": 512},
        f"sum of {PPO}, / (512 N)",
        "replace(DR_GRPO, reduction=FixedLength(512))",
    ),
    Row("TRL", SEQUENCE, f"token mean of {GSPO}", OVER_TOKENS),
    Row("TRL", {**SEQUENCE, "loss_type": "grpo", **PAPER}, f"response mean of {GSPO}", "GSPO"),
    Row(
        "TRL",
        {**SEQUENCE, "loss_type": "luspo", "epsilon": 2e-3, "epsilon_high": 2.5e-3},
        f"sum of |y_i| {GSPO}, / N",
        "LUSPO",
    ),
    Row("TRL", {"loss_type": "luspo"}, f"sum of {PPO}, / N", "Objective(Token(), Clip(0.2, 0.2), FixedLength(1))"),
    Row(
        "TRL",
        {"loss_type": "cispo", "epsilon_high": 5.0},
        "token mean of sg[min(w, 5)] A log π",
        "CISPO",
        "gradient",
    ),
    Row("TRL", {"loss_type": "sapo"}, "response mean of (4/τ) σ(τ(w − 1)) A, τ = 1, or 1.05 for A ≤ 0", "SAPO"),
    Row("TRL", {"loss_type": "vespo"}, "token mean of sg[φ(ρ)] A log π", "VESPO", "gradient"),
    Row(
        "TRL",
        {"delta": 4.0},
        f"token mean of {PPO}, for A < 0 at least 4 A",
        "Objective(Token(), DualClip(0.2, 0.2, 4.0), TokenMean())",
    ),
    Row(
        "TRL",
        {"loss_type": "grpo", "off_policy_mask_threshold": 0.5},
        f"response mean of {PPO}, 0 where A < 0 and −log s > 0.5",
        "DEEPSEEK_V3_2",
    ),
    Row(
        "TRL",
        {"beta": 0.04},
        "token mean of min(w A, clip(w) A) − 0.04 w k3",
        "policy_loss(DAPO.with_clip(0.2, 0.2), logp, old_logp, A, layout)"
        " + 0.04 * kl_penalty(TokenKL(), logp, ref_logp, layout, reduction=TokenMean(), old_logp=old_logp)",
    ),
    Row(
        "TRL",
        {"loss_type": "grpo", "beta": 0.04, "use_bias_correction_kl": False},
        "response mean of min(w A, clip(w) A) − 0.04 k3",
        "policy_loss(GRPO, logp, old_logp, A, layout)"
        " + 0.04 * kl_penalty(K3(), logp, ref_logp, layout, reduction=SequenceMean())",
    ),
    Row("TRL", {}, "response mean of g A, g the geometric mean of ratios in (e^−0.4, e^0.4)", "GMPO", kind="GMPOConfig"),
]

LIGER = [
    Row("Liger-Kernel", {}, f"token mean of {PPO}", "DAPO.with_clip(0.2, 0.2)"),
    Row("Liger-Kernel", {"loss_type": "bnpo"}, f"token mean of {PPO}", "BNPO"),
    Row("Liger-Kernel", {"loss_type": "grpo"}, f"response mean of {PPO}", "GRPO"),
    Row(
        "Liger-Kernel",
        {"loss_type": "dr_grpo", "max_completion_length": 3000},
        f"sum of {PPO}, / (3000 N)",
        "DR_GRPO",
    ),
    Row("Liger-Kernel", SEQUENCE, f"token mean of {GSPO}", OVER_TOKENS),
    Row(
        "Liger-Kernel",
        {**SEQUENCE, "loss_type": "grpo", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
        f"response mean of {GSPO}",
        "GSPO",
    ),
    Row(
        "Liger-Kernel",
        {**SEQUENCE, "loss_type": "luspo", "epsilon_low": 2e-3, "epsilon_high": 2.5e-3},
        f"sum of |y_i| {GSPO}, / N",
        "LUSPO",
    ),
    Row(
        "Liger-Kernel", {"loss_type": "cispo", "epsilon_high": 5.0}, "token mean of sg[min(w, 5)] A log π", "CISPO", "gradient"
    ),
    Row("Liger-Kernel", {"loss_type": "sapo"}, "response mean of (4/τ) σ(τ(w − 1)) A", "SAPO"),
    Row("Liger-Kernel", {"loss_type": "vespo"}, "token mean of sg[φ(ρ)] A log π", "VESPO", "gradient"),
    Row(
        "Liger-Kernel",
        {"delta": 4.0},
        f"token mean of {PPO}, for A < 0 at least 4 A",
        "Objective(Token(), DualClip(0.2, 0.2, 4.0), TokenMean())",
    ),
    Row(
        "Liger-Kernel",
        {"beta": 0.04},
        "token mean of min(w A, clip(w) A) − 0.04 k3",
        "policy_loss(DAPO.with_clip(0.2, 0.2), logp, old_logp, A, layout)"
        " + 0.04 * kl_penalty(K3(), logp, ref_logp, layout, reduction=TokenMean())",
    ),
]
