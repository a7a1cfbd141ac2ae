"""SkyRL: any objective in its registry of policy losses.

In the script that starts the training, where SkyRL's examples register their own losses:

    from gspo_torch.trainers.skyrl import register

    register("gspo_core_gspo", GSPO)      # trainer.algorithm.policy_loss_type=gspo_core_gspo
                                          # trainer.algorithm.loss_reduction=sequence_mean

SkyRL divides advantages by the mini-batch's size before the loss sees them, adds up micro-batches and averages over ranks: so
the denominator is 1 here, whatever the micro-batches. It counts rows without a token. The clip range is eps_clip_low and
eps_clip_high, 0.2 unless set; `loss_reduction` has to be the objective's; `off_policy_correction` is computed by SkyRL's own
function, and its weights multiply the advantage.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from gspo_core import Objective, Padded, SequenceMean, TokenMean, batch_metrics, summary
from gspo_core.objectives import FixedLength
from gspo_core.types import Reduction
from gspo_torch import policy_loss

from .responses import advantage_for, check_objective, with_range

UTILS = "skyrl.backends.skyrl_train.utils."
NAMES: dict[Reduction, str] = {SequenceMean(): "sequence_mean", TokenMean(): "token_mean"}
"""SkyRL's names of a mean; that of FixedLength(max_seq_len) is seq_mean_token_sum_norm."""
OF_OTHER_LOSSES = ("sapo", "clip_cov", "kl_cov", "cispo", "dppo")
"""Groups of options that only a loss of SkyRL's own reads."""


def register(name: str, objective: Objective) -> None:
    """Makes `policy_loss_type=name` the loss of an objective.

    Args:
        name: one that SkyRL does not have; it refuses a second loss of the same name.
        objective: a preset of `gspo_core.objectives`, or your own.

    Returns: nothing.
    """
    importlib.import_module(UTILS + "ppo_utils").PolicyLossRegistry.register(name, skyrl_loss(objective))


def skyrl_loss(objective: Objective) -> Callable[..., tuple[Tensor, dict[str, float]]]:
    """A policy loss as SkyRL calls it.

    Args:
        objective: whose loss it is.

    Returns: a function of (log_probs, old_log_probs, advantages, config, loss_mask, rollout_logprobs), all arrays [N, T] and
    advantages already divided, that returns (loss, metrics). It raises ValueError for a loss_reduction, clip_ratio_c or clip
    range that the objective does not have, for an option of another loss, by name, and for an off_policy_correction where the
    sampler has returned no log-probs.

    Raises: TypeError for what is no objective.
    """
    check_objective(objective)

    def loss(
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        config: Any,
        loss_mask: Tensor,
        rollout_logprobs: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        _check(objective, config)
        ranged = with_range(objective, config.eps_clip_low, config.eps_clip_high, "eps_clip_low, eps_clip_high")
        layout = Padded(loss_mask > 0)
        weight, metrics = _sampler_weight(config.off_policy_correction, old_log_probs, rollout_logprobs, loss_mask)
        tokens = advantages * weight
        # The shares of responses and tokens are in the advantages: what is left of any reduction is a sum over tokens.
        summed = replace(ranged, reduction=FixedLength(1))
        advantage = advantage_for(summed, tokens, layout)
        found = policy_loss(summed, log_probs, old_log_probs, advantage, layout, denominator=1.0)
        numbers = summary(batch_metrics(summed, found, log_probs.detach(), old_log_probs, advantage, layout))
        # The same names on every rank, also of an empty batch: SkyRL reduces them one by one over ranks, and would wait.
        ours = {f"gspo_{key}": numbers.get(key, 0.0) for key in ("clip_active", "log_s_rms", "ess")}
        return found.value, {"clip_ratio": numbers.get("clip_active_tokens", 0.0), **metrics, **ours}

    return loss


def _sampler_weight(
    correction: Any, old_log_probs: Tensor, rollout_logprobs: Tensor | None, loss_mask: Tensor
) -> tuple[Tensor | float, dict[str, float]]:
    """Weights of `off_policy_correction` by SkyRL's own function, 0 for what it leaves out, and its metrics."""
    module = None if correction is None else importlib.import_module(UTILS + "off_policy_correction_utils")
    bounds = [getattr(correction, f"token_mask_is_threshold_{side}", None) for side in ("low", "high")]
    if bounds.count(None) == 1:
        raise ValueError(
            f"token_mask_is_threshold_low, _high: expected both or none, since SkyRL ignores one alone, got {bounds}"
        )
    if module is None or not module.off_policy_correction_enabled(correction):
        return 1.0, {}
    if rollout_logprobs is None:
        raise ValueError("rollout_logprobs: expected the sampler's, since off_policy_correction is on, got None")
    weight, metrics, kept = module.compute_off_policy_correction(old_log_probs, rollout_logprobs, loss_mask, correction)
    return kept if weight is None else kept * weight, metrics


def _check(objective: Objective, config: Any) -> None:
    """Options of SkyRL that say the same as the objective."""
    reduction = objective.reduction
    fixed = isinstance(reduction, FixedLength) and reduction.length == config.max_seq_len
    if isinstance(reduction, FixedLength) and not fixed:
        raise ValueError(f"max_seq_len: expected {reduction.length}, as {reduction} averages, got {config.max_seq_len}")
    expected = "seq_mean_token_sum_norm" if fixed else NAMES.get(reduction)
    if expected is None:
        raise ValueError(f"loss_reduction: expected an average that SkyRL divides advantages by, got {reduction}")
    if config.loss_reduction != expected:
        raise ValueError(f"loss_reduction: expected {expected}, as {reduction} averages, got {config.loss_reduction}")
    if config.clip_ratio_c != 3.0:
        raise ValueError(
            f"clip_ratio_c: expected its default 3.0, since a dual clip is the objective's, got {config.clip_ratio_c}"
        )
    for group in OF_OTHER_LOSSES:
        part = getattr(config, group, None)
        for option in fields(part) if is_dataclass(part) else ():
            if (given := getattr(part, option.name)) != option.default:
                raise ValueError(
                    f"{group}.{option.name}: expected its default {option.default}, which nothing reads here, got {given}"
                )
