"""SkyRL: options of trainer.algorithm."""

from support.trainers.crosswalk import Row
from support.trainers.crosswalk_rows.words import DUAL, GSPO, OVER_TOKENS, PPO

MEAN = {"loss_reduction": "sequence_mean"}

SKYRL = [
    Row("SkyRL", {}, f"token mean of {PPO}", "DAPO.with_clip(0.2, 0.2)"),
    Row("SkyRL", MEAN, f"response mean of {PPO}", "GRPO"),
    Row(
        "SkyRL",
        {"loss_reduction": "seq_mean_token_sum_norm", "max_seq_len": 3000},
        f"sum of {PPO}, / (3000 N)",
        "DR_GRPO",
    ),
    Row(
        "SkyRL",
        {"loss_reduction": "prompt_mean"},
        f"mean over prompts of the token mean of {PPO}",
        "policy_loss(BNPO, logp, old_logp, A / np.bincount(prompts, lengths)[prompts], layout, "
        "denominator=float(len(set(prompts))))",
    ),
    Row(
        "SkyRL",
        {"policy_loss_type": "dual_clip"},
        f"token mean of {DUAL}",
        "Objective(Token(), DualClip(0.2, 0.2, 3.0), TokenMean())",
    ),
    Row("SkyRL", {"policy_loss_type": "gspo"}, f"token mean of {GSPO}", OVER_TOKENS),
    Row(
        "SkyRL",
        {"policy_loss_type": "gspo", **MEAN, "eps_clip_low": 3e-4, "eps_clip_high": 4e-4},
        f"response mean of {GSPO}",
        "GSPO_TOKEN",
    ),
    Row("SkyRL", {"policy_loss_type": "sapo", **MEAN}, "response mean of (4/τ) σ(τ(w − 1)) A", "SAPO"),
    Row(
        "SkyRL",
        {"policy_loss_type": "cispo"},
        "token mean of sg[clip(w, 1, 6)] A log π: no weight is below 1",
        "replace(CISPO, surrogate=TruncatedWeight(6.0, 1.0))",
        "gradient",
    ),
    Row(
        "SkyRL",
        {"policy_loss_type": "cispo", "cispo.cispo_eps_clip_low": 1.0, "cispo.cispo_eps_clip_high": 4.0},
        "token mean of sg[min(w, 5)] A log π",
        "CISPO",
        "gradient",
    ),
    Row(
        "SkyRL",
        {"policy_loss_type": "rollout_is", "eps_clip_low": 0.5, "eps_clip_high": 4.0},
        "token mean of sg[w] A log π where 0.5 < w < 5, w to the sampler",
        "Objective(Token(), BandWeight(0.5, 5.0), TokenMean())",
        "gradient",
    ),
    Row(
        "SkyRL",
        {"policy_loss_type": "importance_sampling"},
        "token mean of w A",
        "replace(DAPO, surrogate=Unclipped())",
    ),
    Row(
        "SkyRL",
        {"policy_loss_type": "dppo"},
        "token mean of w A, 0 where π − π_old > 0.2 and A > 0, or < −0.2 and A < 0; π_old the sampler's",
        "replace(DPPO, surrogate=Unclipped(), gate=TotalVariation(0.2, 0.2))",
    ),
    Row(
        "SkyRL",
        {"policy_loss_type": "dppo", "dppo.dppo_type": "binary_kl", "dppo.delta_low": 0.05, "dppo.delta_high": 0.05},
        "the same, by the KL divergence of (π, 1 − π) from (π_old, 1 − π_old)",
        "replace(DPPO, surrogate=Unclipped(), gate=BinaryKL(0.05, 0.05))",
    ),
    Row(
        "SkyRL",
        {"policy_loss_type": "clip_cov", "clip_cov.clip_ratio": 1.0, "clip_cov.clip_cov_lb": 0.01},
        f"token mean of {PPO}, without the gradient of tokens whose covariance, over the number of tokens, is in (0.01, 5)",
        "policy_loss(BNPO, logp, old_logp, kept_advantages(A, cov / lengths.sum() <= 0.01, layout), layout)",
        "gradient",
    ),
    Row(
        "SkyRL",
        {"policy_loss_type": "kl_cov", "kl_cov.kl_cov_frac": 0.25},
        "token mean of w A, − the sum of |d| over the quarter of tokens of largest covariance",
        "policy_loss(replace(DAPO, surrogate=Unclipped()), logp, old_logp, A, layout) + 1.0 * kl_penalty(KAbs(), logp, "
        "old_logp, Restricted(layout, top_share(cov, layout, 0.25)), reduction=TokenMean(), denominator=1.0)",
    ),
]
