"""torchrl: `GRPOLoss` with an objective.

    loss = GSPOLoss(actor_network, objective=GSPO, entropy_bonus=False)
    loss.denominator = count          # of the whole optimizer step, over the ranks that average; None: of this batch
    loss(batch).loss_objective.backward()

Everything else is torchrl's: its masking, its KL and entropy terms, its keys. The entropy term is averaged as the objective is,
over the same denominator. Where a denominator is given, a KL term counts by this batch's share of it, so that micro-batches of
any of these terms add up.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from tensordict import LazyStackedTensorDict
from torch import Tensor
from torchrl.objectives.llm import GRPOLoss

from gspo_core import GSPO, Objective, Padded, TokenMean, batch_metrics, summary
from gspo_torch import policy_loss

from .responses import advantage_for, check_objective

REFUSED = {"clip_epsilon": None, "kl_mask_threshold": None, "aggregation": None, "reduction": None, "clip_value": None}
"""Options of GRPOLoss that are part of an objective, or that it does not read."""


class GSPOLoss(GRPOLoss):
    """`GRPOLoss`, whose objective is ours.

    Args:
        actor_network: as torchrl's.
        objective: GSPO, or any other.
        denominator: what the sum is divided by, or the attribute of that name; None: this batch's own count.
        options: torchrl's; those in REFUSED are refused by name.

    Raises: ValueError for an option in REFUSED and a clip range that is set later, TypeError for an option that torchrl does
    not have, which it would ignore, and for what is no objective.
    """

    denominator: float | Tensor | None = None
    """What the sum is divided by; None: this batch's own count."""
    numbers: dict[str, float] = {}  # noqa: RUF012 - replaced, never changed
    """`summary` of the last call's batch."""

    def __init__(
        self,
        actor_network: Any = None,
        *,
        objective: Objective = GSPO,
        denominator: float | Tensor | None = None,
        **options: Any,
    ) -> None:
        check_objective(objective)
        known = inspect.signature(GRPOLoss.__init__).parameters
        for name, given in options.items():
            if name not in known:
                raise TypeError(f"{name}: expected an option of GRPOLoss, objective or denominator, got {name}={given!r}")
        for name in REFUSED:
            if options.get(name) is not None:
                raise ValueError(f"{name}: expected None, since the objective says it, got {options[name]!r}")
        mean = "token_mean" if objective.reduction == TokenMean() else "prompt_mean"
        super().__init__(actor_network, **{**options, "aggregation": mean})
        self.objective, self.denominator = objective, denominator
        self._advantage: Tensor | None = None
        self._shared: tuple[Padded, Tensor, float | Tensor] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("clip_epsilon_low", "clip_epsilon_high"):
            raise ValueError(f"{name}: expected no schedule, since the clip range is the objective's, got {value}")
        super().__setattr__(name, value)

    def _compute_policy_objective(self, log_weight: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
        """Torchrl's first hook, which does not know the mask: the log ratios [N, T, 1] go on to the second."""
        self._advantage = advantage
        return log_weight, torch.zeros((), dtype=log_weight.dtype, device=log_weight.device)

    def _aggregate_loss_value(self, value: Tensor, mask: Tensor, tensordict: Any = None) -> Tensor:
        """Torchrl's second hook: called with the log ratios first, then with the entropy's term."""
        advantage, self._advantage = self._advantage, None
        if advantage is None:
            return self._of_entropy(value)
        for key in self._loss_mask_keys():  # what torchrl's own mean leaves out as well
            if (other := tensordict.get(key, default=None)) is not None:
                mask = mask & self._expand_loss_mask(other, value)[..., 0]
        layout, logp = Padded(mask), tensordict.get("_cur_log_prob")
        padded = {"as_padded_tensor": True, "padding_side": "left", "padding_value": 0.0}
        old = tensordict.get(self.tensor_keys.sample_log_prob, **padded)
        tokens = advantage_for(self.objective, advantage.expand(value.shape)[..., 0], layout)
        loss = policy_loss(self.objective, logp, old, tokens, layout, denominator=self.denominator)
        share = 1.0 if self.denominator is None else self.objective.count(layout) / loss.denominator
        self._shared = (layout, loss.denominator, share)
        self.numbers = summary(batch_metrics(self.objective, loss, logp.detach(), old, tokens, layout))
        result: Tensor = loss.value
        return result

    def _of_entropy(self, value: Tensor) -> Tensor:
        """[] from [N, T, 1], by the weights that the objective gives to tokens."""
        assert self._shared is not None  # the policy's term comes first
        layout, denominator, _ = self._shared
        weights = self.objective.reduction.weights(layout, True, denominator)
        total: Tensor = (weights * torch.where(layout.valid, value[..., 0], 0.0)).sum()
        return total

    def _kl_to_ref(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Torchrl's, a mean over all slots of this batch."""
        assert self._shared is not None  # the policy's term comes first
        loss, penalty = super()._kl_to_ref(*arguments, **options)
        return loss * self._shared[2], penalty

    def forward(self, tensordict: Any) -> Any:
        """As torchrl's; `clip_fraction` is the share of tokens that have an advantage and no gradient."""
        if isinstance(tensordict, LazyStackedTensorDict):  # rows of other lengths: padded as torchrl pads their log-probs
            key, tensordict = self.tensor_keys.advantage, tensordict.copy()
            if (advantage := tensordict.get(key, None, as_padded_tensor=True, padding_side="left")) is not None:
                tensordict.set(key, advantage)
        found = super().forward(tensordict)
        self._shared = None
        found.clip_fraction = found.loss_objective.detach().new_tensor(self.numbers.get("clip_active_tokens", 0.0))
        return found
