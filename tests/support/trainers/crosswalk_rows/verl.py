"""verl: options of actor_rollout_ref.actor."""

from support.trainers.crosswalk import Row
from support.trainers.crosswalk_rows.words import DUAL, GSPO, OVER_TOKENS, PPO

PAPER_RANGE = {"clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}
IN_REGION = "W = min(w, 20), and 0 where π − π_old > 0.15 and A > 0, or < −0.15 and A < 0"

VERL = [
    Row("verl", {}, f"token mean of {DUAL}", "Objective(Token(), DualClip(0.2, 0.2, 3.0), TokenMean())"),
    Row(
        "verl",
        {"loss_agg_mode": "seq-mean-token-mean"},
        f"response mean of {DUAL}",
        "replace(GRPO, surrogate=DualClip(0.2, 0.2, 3.0))",
    ),
    Row(
        "verl",
        {"loss_agg_mode": "seq-mean-token-sum"},
        f"sum of {DUAL}, / N",
        "Objective(Token(), DualClip(0.2, 0.2, 3.0), FixedLength(1))",
    ),
    Row(
        "verl",
        {"loss_agg_mode": "seq-mean-token-sum-norm", "loss_scale_factor": 3000},
        f"sum of {DUAL}, / (3000 N)",
        "replace(DR_GRPO, surrogate=DualClip(0.2, 0.2, 3.0))",
    ),
    Row(
        "verl",
        {"loss_agg_mode": "token-sum"},
        f"sum of {DUAL}",
        "policy_loss(replace(DAPO, surrogate=DualClip(0.2, 0.2, 3.0)), logp, old_logp, A, layout, denominator=1.0)",
    ),
    Row("verl", {"policy_loss.loss_mode": "gspo"}, f"token mean of {GSPO}", OVER_TOKENS),
    Row(
        "verl",
        {"policy_loss.loss_mode": "gspo", "loss_agg_mode": "seq-mean-token-mean", **PAPER_RANGE},
        f"response mean of {GSPO}",
        "GSPO_TOKEN",
    ),
    Row(
        "verl",
        {"policy_loss.loss_mode": "sapo"},
        "response mean of (4/τ) σ(τ(w − 1)) A, whatever loss_agg_mode",
        "SAPO",
    ),
    Row(
        "verl",
        {"policy_loss.loss_mode": "geo_mean", "clip_ratio_low": 0.4, "clip_ratio_high": 0.4},
        "mean of g A over the rows of each micro-batch, g the geometric mean of ratios in (e^−0.4, e^0.4)",
        "GMPO",
    ),
    Row(
        "verl",
        {"policy_loss.loss_mode": "cispo"},
        "token mean of sg[clip(w)] A log π: bounded on both sides",
        "replace(CISPO, surrogate=TruncatedWeight(1.2, 0.8))",
        "gradient",
    ),
    Row(
        "verl",
        {"policy_loss.loss_mode": "cispo", "clip_ratio_low": 1.0, "clip_ratio_high": 4.0},
        "token mean of sg[min(w, 5)] A log π",
        "CISPO",
        "gradient",
    ),
    Row(
        "verl",
        {"policy_loss.loss_mode": "gpg"},
        "token mean of A log π",
        "policy_loss(DAPO, logp, None, A, layout, on_policy=True)",
        "gradient",
    ),
    Row(
        "verl",
        {"policy_loss.loss_mode": "dro", "policy_loss.dro_beta": 0.1},
        "token mean of A log π − 0.05 d²",
        "policy_loss(DAPO, logp, None, A, layout, on_policy=True)"
        " + 0.1 * kl_penalty(K2(), logp, old_logp, layout, reduction=TokenMean())",
        "gradient",
    ),
    Row(
        "verl",
        {"policy_loss.loss_mode": "dppo_tv", "clip_ratio_low": 0.15, "clip_ratio_high": 0.15, "clip_ratio_c": 20.0},
        f"token mean of sg[W] A log π; {IN_REGION}",
        "DPPO",
        "gradient",
    ),
    Row(
        "verl",
        {"policy_loss.loss_mode": "dppo_tv", "clip_ratio_low": 0.15, "clip_ratio_high": 0.15},
        "the same, with W = min(w, 3)",
        "replace(DPPO, surrogate=TruncatedWeight(3.0))",
        "gradient",
    ),
    Row(
        "verl",
        {"policy_loss.loss_mode": "dppo_kl", "clip_ratio_low": 0.05, "clip_ratio_high": 0.05, "clip_ratio_c": 20.0},
        "the same with W = min(w, 20), by the KL divergence of (π, 1 − π) from (π_old, 1 − π_old)",
        "replace(DPPO, gate=BinaryKL(0.05, 0.05))",
        "gradient",
    ),
    Row(
        "verl",
        {"policy_loss.loss_mode": "clip_cov", "policy_loss.clip_cov_ratio": 1.0, "policy_loss.clip_cov_lb": 0.1},
        f"token mean of {PPO}, without the gradient of tokens whose covariance is in (0.1, 5); by default 2e-4 of the tokens, "
        "drawn from those in (1, 5)",
        "policy_loss(BNPO, logp, old_logp, kept_advantages(A, (cov <= 0.1) | (cov >= 5), layout), layout)",
        "gradient",
    ),
    Row(
        "verl",
        {"policy_loss.loss_mode": "kl_cov", "policy_loss.kl_cov_ratio": 0.25},
        "token mean of w A, − 0.1 |d| on the quarter of tokens of largest covariance; by default on 2e-4 of them",
        "policy_loss(replace(DAPO, surrogate=Unclipped()), logp, old_logp, A, layout) + 0.1 * kl_penalty(KAbs(), logp, "
        "old_logp, Restricted(layout, top_share(cov, layout, 0.25)), reduction=TokenMean(), denominator=float(lengths.sum()))",
    ),
    Row(
        "verl",
        {"policy_loss.loss_mode": "bypass_mode"},
        f"token mean of {DUAL}, with the sampler's π as π_old",
        "Objective(Token(), DualClip(0.2, 0.2, 3.0), TokenMean())",
    ),
]
