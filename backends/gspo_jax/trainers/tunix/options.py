"""Options of Tunix's configurations: what contradicts an objective is refused by name; its KL term is one of our estimators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gspo_core import Objective, SequenceMean, SequenceToken, TokenMean
from gspo_core.kl import K1, K2, K3, Divergence, KLEstimator
from gspo_core.objectives import DualClip, FixedLength
from gspo_core.types import Array, Namespace, Reduction

KL: dict[str, KLEstimator] = {"kl": K1(), "mse_kl": K2(), "low_var_kl": K3()}
"""By Tunix's `kl_loss_mode`."""


def check_options(objective: Objective, config: Any, example: Any) -> None:
    """Refuses what the loss of an objective cannot honour.

    Args:
        objective: whose loss it is.
        config: GRPOConfig of Tunix, DAPOConfig, DrGRPOConfig, or the GRPOConfig of its agentic learner.
        example: the TrainExample of a micro-batch.

    Returns: nothing.

    Raises: ValueError, by the option's name.
    """
    surrogate, packed = objective.surrogate, getattr(example, "segment_ids", None) is not None
    width = None if packed else example.completion_mask.shape[-1]
    has: dict[str, Any] = {
        "epsilon": getattr(surrogate, "low", None),
        "epsilon_high": getattr(surrogate, "high", None),
        "epsilon_c": surrogate.cap if isinstance(surrogate, DualClip) else None,
        "loss_agg_mode": _modes(objective.reduction, width),
        "loss_algo": ("grpo", "gspo-token") if objective.ratio == SequenceToken() else ("grpo",),
    }
    for name, same in has.items():
        given, allowed = getattr(config, name, None), same if isinstance(same, tuple) else (same,)
        if given is not None and given not in allowed:
            known = " or ".join(repr(x) for x in (None, *allowed) if x is not None) or "nothing else"
            raise ValueError(f"{name}: expected None, or what the objective has, {known}, got {given!r}")
    warm = config.temperature not in (0.0, 1.0)
    if warm and example.old_per_token_logps is not None and not hasattr(config, "use_rollout_logps"):
        raise ValueError(
            f"temperature: expected 1.0 with num_iterations above 1, since Tunix computes old log-probs at 1.0 and new ones at "
            f"the rollout's, got {config.temperature}"
        )
    weights = getattr(example, "sampler_is_weights", None)
    if weights is not None and not objective.ratio.per_token:
        raise ValueError(
            f"sampler_is: expected None, since {objective.ratio} has one ratio per response, got weights per token; take "
            "an objective with token advantages such as GSPO_TOKEN"
        )
    if weights is None and getattr(config, "sampler_is", None) is not None:
        raise ValueError(
            f"sampler_is: expected None where a batch has no weights, got {config.sampler_is!r}; Tunix leaves them out of "
            "packed sequences (max_seq_token_per_tpu) and where the sampler returns no log-probs (return_logprobs)"
        )


def _modes(reduction: Reduction, width: int | None) -> tuple[str, ...]:
    """Tunix's names of a mean; `width` of its rows, if they are not packed."""
    names: dict[Reduction, tuple[str, ...]] = {
        SequenceMean(): ("sequence-mean-token-mean",),
        TokenMean(): ("token-mean",),
        FixedLength(1): ("seq-mean-token-sum", "sequence-mean-token-sum-norm"),
    }
    scaled = reduction == FixedLength(width) if width else False
    return names.get(reduction, ()) + ("sequence-mean-token-scale",) * scaled


def kl_estimator(config: Any) -> KLEstimator:
    """That of `kl_loss_mode` and `kl_clamp_value`.

    Args:
        config: as that of `check_options`.

    Returns: an estimator for `kl_penalty`.

    Raises: ValueError for a mode that Tunix does not have.
    """
    if config.kl_loss_mode not in KL:
        raise ValueError(f"kl_loss_mode: expected one of {', '.join(KL)}, got {config.kl_loss_mode!r}")
    estimator, cap = KL[config.kl_loss_mode], config.kl_clamp_value
    return estimator if cap is None else ClampedValue(estimator, cap)


@dataclass(frozen=True)
class ClampedValue:
    """An estimator whose value Tunix's `kl_clamp_value` bounds from both sides; where the bound acts the slope is 0.

    >>> import jax.numpy as jnp
    >>> value, slope = ClampedValue(K2(), 2.0)(jnp, jnp.array([1.0, -3.0]), jnp.zeros(2))
    >>> value.tolist(), slope.tolist()
    ([0.5, 2.0], [-1.0, 0.0])
    """

    estimator: KLEstimator
    cap: float
    """Largest |estimate| of a token; nats."""

    @property
    def per_token(self) -> bool:
        """As the estimator's."""
        return self.estimator.per_token

    @property
    def off_policy(self) -> bool:
        """As the estimator's."""
        return self.estimator.off_policy

    def __call__(self, xp: Namespace, x: Array, d: Array) -> Divergence:
        """(value within ±cap, slope)."""
        value, slope = self.estimator(xp, x, d)
        return Divergence(xp.clip(value, -self.cap, self.cap), xp.where(xp.abs(value) > self.cap, 0.0, slope))
