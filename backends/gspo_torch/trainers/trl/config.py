"""The options: TRL's own, without those that an objective replaces, and with those that it needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from trl import GRPOConfig

from gspo_core import GSPO, Objective
from gspo_core.advantages import Normaliser
from gspo_core.backend import as_whole
from gspo_core.kl import K3, KLEstimator, TokenKL
from gspo_core.mismatch import Correction, Mask, ProductWeight, TokenWeight, Truncate

OBJECTIVE = "it is part of the objective: write objective=GSPO, or any other, such as GSPO.with_clip(3e-4, 4e-4)"
ADAPTIVE = "the bonus has the constant coefficient entropy_coef"
REFUSED: dict[str, str] = {
    **dict.fromkeys(("loss_type", "importance_sampling_level", "epsilon", "epsilon_high", "delta"), OBJECTIVE),
    **dict.fromkeys(("sapo_temperature_neg", "sapo_temperature_pos"), OBJECTIVE),
    **dict.fromkeys(("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"), OBJECTIVE),
    **dict.fromkeys(("off_policy_mask_threshold", "top_entropy_quantile"), OBJECTIVE),
    **dict.fromkeys(("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"), ADAPTIVE),
}
"""Options of TRL that have no effect here, and what to write instead. Their default is None: not given."""


@dataclass
class GSPOConfig(GRPOConfig):
    """`GRPOConfig` with an objective. An option of TRL that would have no effect is refused by name, whatever its value.

    Raises: ValueError for an option in REFUSED, for use_adaptive_entropy, and for combinations that have no exact result:
    gradient_accumulation_steps that do not divide steps_per_generation (an optimizer step would need the number of tokens of a
    generation that is not sampled yet), a `normaliser` together with other options for the same thing, token weights for a
    sampler on an objective whose ratio is the sequence's.
    """

    objective: Objective = GSPO
    """Which loss: a preset of gspo_core.objectives, or your own."""
    normaliser: Normaliser | None = None
    """Advantages from the rewards of a group; None: TRL's, (r − mean) / (std + 1e-4) with N − 1 in the variance."""
    kl_estimator: KLEstimator | None = None
    """Of the penalty with coefficient `beta`. None: TokenKL(), or K3() with use_bias_correction_kl=False."""
    sampler_correction: Correction | None = None
    """Weights π_old/π_sampler with use_vllm, such as MIS; None: the weights that TRL's vllm_importance_sampling_* ask for."""
    log_entropy: bool = False
    """Log the mean entropy. It needs responses without an advantage, which are otherwise not run through the model."""
    budget_bytes: int = 2**26
    """Memory for logits on a CPU, as in `linear_policy_loss`; a GPU needs none. More of it takes less time."""

    loss_type: Any = field(default=None, metadata={"help": "Not used: the objective says it."})
    importance_sampling_level: Any = None
    epsilon: Any = None
    epsilon_high: Any = None
    delta: Any = None
    sapo_temperature_neg: Any = None
    sapo_temperature_pos: Any = None
    vespo_k_pos: Any = None
    vespo_lambda_pos: Any = None
    vespo_k_neg: Any = None
    vespo_lambda_neg: Any = None
    off_policy_mask_threshold: Any = None
    top_entropy_quantile: Any = None
    entropy_coef_min: Any = None
    entropy_coef_max: Any = None
    entropy_coef_delta: Any = None
    entropy_target: Any = None

    def __post_init__(self) -> None:
        for name, reason in REFUSED.items():
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: expected no value, got {getattr(self, name)!r}; {reason}")
        if self.use_adaptive_entropy:
            raise ValueError(f"use_adaptive_entropy: expected False, got True; {ADAPTIVE}")
        if not isinstance(self.objective, Objective):
            raise TypeError(f"objective: expected an Objective such as GSPO, got {type(self.objective).__name__}")
        self.budget_bytes = as_whole("budget_bytes", self.budget_bytes, 0)
        super().__post_init__()
        self._check_steps()
        self._check_advantages()

    def _check_steps(self) -> None:
        """An optimizer step lies within one generation."""
        steps, whole = self.gradient_accumulation_steps, self.steps_per_generation
        if whole % steps:
            raise ValueError(
                f"gradient_accumulation_steps: expected a divisor of steps_per_generation ({whole}), so that all responses of "
                f"an optimizer step are known when it begins, got {steps}"
            )

    def _check_advantages(self) -> None:
        """Whatever makes an advantage is said once."""
        if self.normaliser is not None:
            for name, expected in (("scale_rewards", "group"), ("multi_objective_aggregation", "sum_then_normalize")):
                if getattr(self, name) != expected:
                    raise ValueError(f"{name}: expected {expected!r} with a normaliser, got {getattr(self, name)!r}")
        if self.sampler_correction is not None and not self._corrects:
            raise ValueError("sampler_correction: expected None without use_vllm and vllm_importance_sampling_correction")
        weight = self.correction
        if weight is not None and weight.level.per_token and not self.objective.ratio.per_token:
            named = "vllm_importance_sampling_mode" if self.sampler_correction is None else "sampler_correction"
            raise ValueError(
                f"{named}: expected a weight per sequence, since the objective has one ratio per sequence, got one per token; "
                "take 'sequence_mask' or 'sequence_truncate', or an objective with token advantages such as GSPO_TOKEN"
            )

    @property
    def _corrects(self) -> bool:
        return bool(self.use_vllm and self.vllm_importance_sampling_correction)

    @property
    def correction(self) -> Correction | None:
        """How another engine's samples are weighted: `sampler_correction`, or what TRL's options ask for; None: not at all."""
        if not self._corrects or self.sampler_correction is not None:
            return self.sampler_correction
        level, _, action = self.vllm_importance_sampling_mode.partition("_")
        low, high = self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
        if action == "truncate" and (low is not None or high is None):
            raise ValueError(
                "vllm_importance_sampling_clip_min: expected None, and a clip_max, with a truncate mode, which bounds a weight "
                f"from above, got {low} and {high}"
            )
        bounds = (0.0 if low is None else low, math.inf if high is None else high)
        bounded = Truncate(high) if action == "truncate" else Mask(*bounds, drop=False)
        return Correction(TokenWeight() if level == "token" else ProductWeight(), bounded)

    @property
    def kl(self) -> KLEstimator | None:
        """The estimator of the penalty; None without one."""
        if self.beta == 0.0:
            return None
        return self.kl_estimator or (TokenKL() if self.use_bias_correction_kl else K3())

    def to_dict(self) -> dict[str, Any]:
        """For logs, where only plain values can stand: ours as they print."""
        ours = {f.name for f in fields(GSPOConfig)} - {f.name for f in fields(GRPOConfig)}
        return {k: str(v) if k in ours and not isinstance(v, bool | None) else v for k, v in super().to_dict().items()}
