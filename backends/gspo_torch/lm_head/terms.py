"""A loss on log-probs and entropies: the objective, a KL term and an entropy bonus, as one value and its weights per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gspo_core import Loss, Objective, PerToken, kl_penalty
from gspo_core import policy_loss as core_policy_loss
from gspo_core.backend import active_tokens, as_number, token_shares
from gspo_core.kl import KLTerm
from gspo_core.layouts import Layout
from gspo_core.objectives import LinearLoss


def _times(coefficient: float | Tensor, x: Tensor) -> Tensor:
    """The product as a constant; 0 for a coefficient of 0, whatever x is."""
    if isinstance(coefficient, Tensor):
        factor = coefficient.detach().to(x)
        return torch.where(factor == 0, 0.0, factor * x)
    number = as_number("coefficient", coefficient)
    return number * x if number else torch.zeros_like(x)


class Weighed(NamedTuple):
    """The loss that is minimised, as a value and weights."""

    value: Tensor
    """[] policy loss + β KL − entropy bonus."""
    c: Tensor
    """Token array: ∂value/∂logp."""
    e: Tensor | None
    """Token array: ∂value/∂entropy; None without a bonus."""
    loss: Loss
    """The policy loss alone."""
    kl: Tensor | None
    """[] the KL estimate, before it is multiplied by β; None without a KL term."""


@dataclass(frozen=True, eq=False)
class Terms:
    """All arguments of a loss but the log-probs and entropies."""

    objective: Objective
    old_logp: Tensor | None
    advantage: Tensor | PerToken
    layout: Layout
    denominator: float | Tensor | None
    on_policy: bool
    kl: KLTerm | None
    entropy_bonus: float | Tensor | None

    @property
    def every_token(self) -> bool:
        """Whether the loss also depends on sequences without an advantage."""
        return self.kl is not None or self.entropy_bonus is not None

    def weigh(self, logp: Tensor, entropy: Tensor | None, layout: Layout | None = None) -> Weighed:
        """Values and weights at these log-probs (and entropies, if there is a bonus); token arrays."""
        layout = self.layout if layout is None else layout
        loss = core_policy_loss(
            self.objective,
            logp,
            self.old_logp,
            self.advantage,
            layout,
            denominator=self.denominator,
            on_policy=self.on_policy,
        )
        value, c, e, estimate = loss.value, loss.logp_grad, None, None
        if self.kl is not None:
            term = self._divergence(logp, layout)
            estimate = term.value
            value, c = value + _times(self.kl.coefficient, estimate), c + _times(self.kl.coefficient, term.logp_grad)
        if self.entropy_bonus is not None and entropy is not None:
            e = -_times(self.entropy_bonus, token_shares(self.objective.reduction, layout, loss.denominator))
            value = value + layout.sum(layout.select(e * layout.select(entropy))).sum()
        return Weighed(value, c, e, loss, estimate)

    def result(self, value: Tensor, weighed: Weighed, logp: Tensor | None, entropy: Tensor | None) -> LinearLoss:
        """What a loss on hidden states returns, given its differentiable value; None for what was not asked for."""
        policy = weighed.loss
        return LinearLoss(
            value=value,
            logp_grad=weighed.c,
            log_ratio=policy.log_ratio,
            clipped=policy.clipped,
            denominator=policy.denominator,
            on_policy=self.on_policy,
            logp=logp,
            entropy=entropy,
            kl=weighed.kl,
            policy=policy if self.every_token else None,
        )

    def _divergence(self, logp: Tensor, layout: Layout) -> Any:
        kl = self.kl
        assert kl is not None
        old = logp if self.old_logp is None else self.old_logp
        return kl_penalty(
            kl.estimator,
            logp,
            kl.ref_logp,
            layout,
            reduction=self.objective.reduction,
            old_logp=old if kl.estimator.off_policy else None,
            denominator=self.denominator,
        )

    def needed_tokens(self, layout: Layout) -> Tensor:
        """Flat indices of the tokens that need a forward pass: those of sequences with an advantage, or all.

        All, too, where only an exchange with other ranks could tell: another shard may hold a sequence's advantage.
        """
        per_sequence = isinstance(self.advantage, Tensor) and self.advantage.ndim == 1
        every = self.every_token or (layout.local is not layout and not per_sequence)
        needed = layout.valid if every else active_tokens(self.objective, self.advantage, layout)
        return torch.nonzero(needed.reshape(-1))[:, 0]
