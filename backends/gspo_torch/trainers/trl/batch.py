"""What TRL knows of a micro-batch, as arguments of a loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gspo_core import Padded, PerToken
from gspo_core.advantages import Normaliser, group_advantages
from gspo_core.layouts import Layout, Turns
from gspo_core.metrics import Metrics, sampler_metrics
from gspo_core.mismatch import Correction, sampler_weight
from gspo_core.objectives import Objective

Batch = dict[str, Any]
"""TRL's inputs: prompt_ids, prompt_mask [N, P], completion_ids, completion_mask [N, T], advantages [N] or [N, T], and so on."""


def mask_of(batch: Batch) -> Tensor:
    """[N, T] boolean: the policy's own tokens, neither padding nor a tool's, and none that a sampler correction rejected."""
    mask: Tensor = batch["completion_mask"]
    for name in ("tool_mask", "kept_mask"):
        mask = mask * batch[name] if name in batch else mask
    return mask > 0


def layout_of(objective: Objective, batch: Batch) -> Layout:
    """Where the policy's tokens stand; for an objective with turns, these are the runs between the tokens of tools."""
    mask, ratio = mask_of(batch), objective.ratio
    if not (getattr(ratio, "per_turn", False) or getattr(objective.reduction, "shares_turns", False)):
        return Padded(mask)
    first = mask & ~torch.nn.functional.pad(mask, (1, 0))[:, :-1]
    advantages = batch["advantages"]
    most = advantages.shape[1] if advantages.ndim == 2 and not ratio.per_token else (mask.shape[1] + 1) // 2
    return Turns(Padded(mask), torch.where(mask, first.cumsum(1) - 1, -1), most)


def advantage_of(objective: Objective, batch: Batch) -> Tensor | PerToken:
    """[N], [N, K] with a ratio per turn, or one per token."""
    values: Tensor = batch["advantages"]
    return PerToken(values) if values.ndim == 2 and objective.ratio.per_token else values


def rows_to_run(batch: Batch) -> Tensor:
    """[M] numbers of the rows with a token and an advantage; at least one, so that all ranks run the model."""
    advantages = batch["advantages"]
    live = mask_of(batch).any(1) & (advantages.reshape(len(advantages), -1) != 0).any(1)
    rows: Tensor = live.nonzero()[:, 0]
    return rows if len(rows) else rows.new_zeros(1)


def chosen(batch: Batch, rows: Tensor) -> Batch:
    """Those rows."""
    return {name: x[rows] if torch.is_tensor(x) and x.ndim else x for name, x in batch.items()}


def normalised(rewards: Tensor, group_size: int, normaliser: Normaliser) -> Tensor:
    """[N] advantages of consecutive groups; 0 for a response that no reward function could judge (NaN)."""
    groups = torch.arange(len(rewards), device=rewards.device) // group_size
    judged = ~rewards.isnan()
    found: Tensor = group_advantages(torch.where(judged, rewards, 0.0), groups, normaliser, valid=judged)
    return found


def correct(batch: Batch, correction: Correction) -> Metrics:
    """Multiply the advantages by π_old/π_sampler, and mask what the correction rejects. Changes the batch.

    Returns: metrics of the disagreement.
    """
    old, sampler, layout = batch["old_per_token_logps"], batch["sampling_per_token_logps"], Padded(mask_of(batch))
    sampler = torch.where(sampler.isnan(), old, sampler)  # a token that vLLM could not score has the weight 1, as in TRL
    found, advantages = sampler_weight(correction, old, sampler, layout), batch["advantages"]
    weight = found.weight if found.weight.ndim == 2 else found.weight[:, None]
    weighted = weight * (advantages if advantages.ndim == 2 else advantages[:, None])
    batch["advantages"] = weighted[:, 0] if advantages.ndim == found.weight.ndim == 1 else weighted
    batch["kept_mask"] = found.layout.valid.to(torch.int64)
    return sampler_metrics(correction, old, sampler, layout)
