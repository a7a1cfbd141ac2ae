"""torchrl: `GRPOLoss` with an objective.

    loss = GSPOLoss(actor_network, objective=GSPO, entropy_bonus=False)
    loss.denominator = count          # of the whole optimizer step, over the ranks that average; None: of this batch
    loss(batch).loss_objective.backward()

Everything else is torchrl's: its masking, its KL and entropy terms, its keys. The entropy term is averaged as the objective is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchrl.objectives.llm import GRPOLoss

from gspo_core import GSPO, Objective, Padded, TokenMean, batch_metrics, summary
from gspo_torch import policy_loss

from .responses import advantage_for

REFUSED = {"clip_epsilon": None, "kl_mask_threshold": None, "aggregation": None, "reduction": None, "clip_value": None}
"""Options of GRPOLoss that are part of an objective, or that it does not read."""


class GSPOLoss(GRPOLoss):
    """`GRPOLoss`, whose objective is ours.

    Args:
        actor_network: as torchrl's.
        objective: GSPO, or any other.
        options: torchrl's; those in REFUSED are refused by name.

    Raises: ValueError for an option in REFUSED.
    """

    denominator: float | Tensor | None = None
    """What the sum is divided by; None: this batch's own count."""
    numbers: dict[str, float] = {}  # noqa: RUF012 - replaced, never changed
    """`summary` of the last call's batch."""

    def __init__(self, actor_network: Any = None, *, objective: Objective = GSPO, **options: Any) -> None:
        for name in REFUSED:
            if options.get(name) is not None:
                raise ValueError(f"{name}: expected None, since the objective says it, got {options[name]!r}")
        mean = "token_mean" if objective.reduction == TokenMean() else "prompt_mean"
        super().__init__(actor_network, **{**options, "aggregation": mean})
        self.objective = objective
        self._advantage: Tensor | None = None

    def _compute_policy_objective(self, log_weight: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
        """Torchrl's first hook, which does not know the mask: the log ratios [N, T, 1] go on to the second."""
        self._advantage = advantage
        return log_weight, torch.zeros((), dtype=log_weight.dtype, device=log_weight.device)

    def _aggregate_loss_value(self, value: Tensor, mask: Tensor, tensordict: Any = None) -> Tensor:
        """Torchrl's second hook: called with the log ratios first, then with other terms."""
        advantage, self._advantage = self._advantage, None
        if advantage is None:
            other: Tensor = super()._aggregate_loss_value(value, mask, tensordict=tensordict)
            return other
        layout, logp = Padded(mask), tensordict.get("_cur_log_prob")
        old = (logp - value[..., 0]).detach()
        tokens = advantage_for(self.objective, advantage.expand(value.shape)[..., 0], layout)
        loss = policy_loss(self.objective, logp, old, tokens, layout, denominator=self.denominator)
        self.numbers = summary(batch_metrics(self.objective, loss, logp.detach(), old, tokens, layout))
        result: Tensor = loss.value
        return result

    def forward(self, tensordict: Any) -> Any:
        """As torchrl's; `clip_fraction` is the share of tokens that have an advantage and no gradient."""
        found = super().forward(tensordict)
        found.clip_fraction = torch.tensor(self.numbers.get("clip_active_tokens", 0.0))
        return found
