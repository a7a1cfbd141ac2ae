"""OpenRLHF: an objective in place of its `PolicyLoss`, with its arguments and its five results.

Its actor makes the loss by name, in every worker; so in a module that the workers import before they make one:

    import openrlhf.trainer.ray.ppo_actor as actor
    from gspo_torch.trainers.openrlhf import policy_loss_class

    actor.PolicyLoss = policy_loss_class(GSPO)

The clip range is --actor.eps_clip_low_high (0.2 0.2 unless set, where the paper has 3e-4 4e-4). The denominator is OpenRLHF's
own count of the step, `global_batch_size / dp_size` or `batch_num_tokens / dp_size`. Set --actor.loss_agg_mode to the
objective's average; options that belong to another objective are refused.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from gspo_core import GSPO, Objective, Padded, TokenMean, batch_metrics, sampler_weight, summary
from gspo_core.mismatch import Correction, Reject
from gspo_core.objectives import FixedLength
from gspo_torch import policy_loss

from .responses import advantage_for, check_objective, whole_step, with_range

UNREAD = ("dual_clip", "is_correction_level", "is_correction_mode", "is_correction_gating", "is_correction_threshold")
"""Options of OpenRLHF's own loss that are part of an objective or of a correction here; the first two have to be off."""


class PolicyLoss(torch.nn.Module):
    """`openrlhf.models.PolicyLoss` of an objective.

    Args:
        objective: GSPO, or any other.
        correction: of the rollout engine's log-probs, such as TIS; in place of OpenRLHF's is_correction_* options.
        clip_eps_low, clip_eps_high: the clip range, of objectives that have one.
        token_level_loss: True for a mean over tokens, else False; "gspo" is a mean over responses whatever it says.
        policy_loss_type: "ppo" or "gspo": not read, the objective says it.
        others: is_correction_level="off" and dual_clip=None, and what these two make irrelevant.

    Raises: ValueError for an option that contradicts the objective and for a correction with drop=True, TypeError for an option
    that OpenRLHF does not have, each by its name.
    """

    def __init__(
        self,
        objective: Objective = GSPO,
        correction: Correction | None = None,
        *,
        clip_eps_low: float = 0.2,
        clip_eps_high: float = 0.2,
        token_level_loss: bool | None = None,
        policy_loss_type: str = "ppo",
        **others: Any,
    ) -> None:
        super().__init__()
        check_objective(objective)
        for name, given in others.items():
            if name not in UNREAD:
                raise TypeError(f"{name}: expected an option of OpenRLHF's PolicyLoss, got {name}={given!r}")
        if not (correction is None or isinstance(correction, Correction)):
            raise TypeError(f"correction: expected a Correction such as gspo_core.TIS, got {correction!r}")
        if correction is not None and correction.action.drop:
            raise ValueError(
                f"correction: expected one with drop=False, since OpenRLHF's count of the step has what would be dropped in "
                f"it, got {correction}"
            )
        of_tokens = objective.reduction == TokenMean()
        if token_level_loss is not None and (token_level_loss and policy_loss_type != "gspo") != of_tokens:
            mode = "token-mean" if of_tokens else "seq-mean-token-mean"
            raise ValueError(
                f"loss_agg_mode: expected {mode}, as the objective averages, got token_level_loss={token_level_loss}"
            )
        for name, off in (("dual_clip", None), ("is_correction_level", "off")):
            if others.get(name, off) != off:
                raise ValueError(f"{name}: expected {off}, since it is the objective's or the correction's, got {others[name]}")
        self.objective = with_range(objective, clip_eps_low, clip_eps_high, "eps_clip_low_high")
        self.correction = correction

    def forward(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        action_mask: Tensor,
        rollout_log_probs: Tensor | None = None,
        dp_size: int = 1,
        batch_num_tokens: float | None = None,
        global_batch_size: float | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """(loss, clip_ratio, ppo_kl, vllm_kl, is_filter_ratio); all token arrays [N, T]."""
        objective, layout, tokens, filtered = self.objective, Padded(action_mask > 0), advantages, None
        if self.correction is not None:
            if rollout_log_probs is None:
                raise ValueError(f"rollout_log_probs: expected the sampler's, since there is a {self.correction}, got None")
            weight = sampler_weight(self.correction, old_log_probs, rollout_log_probs, layout)
            tokens = tokens * (weight.weight if self.correction.level.per_token else weight.weight[:, None])
            units = layout.valid if self.correction.level.per_token else layout.non_empty()
            changed = ~weight.kept if isinstance(self.correction.action, Reject) else weight.weight != weight.raw
            filtered = (changed & units).sum() / units.sum().clamp(min=1)
        advantage = advantage_for(objective, tokens, layout)
        whole = batch_num_tokens if objective.reduction == TokenMean() else global_batch_size
        if whole is not None and isinstance(objective.reduction, FixedLength):
            whole = whole * objective.reduction.length
        loss = policy_loss(objective, log_probs, old_log_probs, advantage, layout, denominator=whole_step(whole, dp_size))
        numbers = summary(batch_metrics(objective, loss, log_probs.detach(), old_log_probs, advantage, layout))
        clip_ratio, ppo_kl = (loss.value.new_tensor(numbers.get(x, 0.0)) for x in ("clip_active_tokens", "kl_k1_per_token"))
        if filtered is None or rollout_log_probs is None:
            return loss.value, clip_ratio, ppo_kl, None, None
        vllm_kl = layout.select(rollout_log_probs - old_log_probs).sum() / layout.valid.sum().clamp(min=1)
        return loss.value, clip_ratio, ppo_kl, vllm_kl, filtered


def policy_loss_class(objective: Objective, correction: Correction | None = None) -> Any:
    """What `openrlhf.trainer.ray.ppo_actor.PolicyLoss` is replaced by.

    Args:
        objective, correction: as of `PolicyLoss`.

    Returns: a callable that takes the options of OpenRLHF's own.

    Raises: TypeError for what is no objective.
    """
    check_objective(objective)
    return partial(PolicyLoss, objective, correction)
