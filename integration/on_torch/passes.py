"""The trainer's passes over a micro-batch: one for the old log-probs, and one per update, along the routes to be replayed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from gspo_torch import Routes, linear_policy_loss, record_routes, replay_routes
from torch import Tensor

from gspo_core import Padded, PerToken, sampler_weight
from gspo_core.metrics import sampler_metrics
from gspo_core.mismatch import SamplerWeight
from gspo_core.objectives import LinearLoss
from integration.on_torch.rollout import Responses, predicting_states
from integration.on_torch.trainer import Trainer
from integration.shared.disagreement import UNCORRECTED
from integration.shared.measure import Rollup


class Old(NamedTuple):
    """Reference values for the updates of a micro-batch."""

    logp: Tensor
    """[N, T] the trainer's log-probs before the first update."""
    routes: Routes | None = None
    """Of the same pass, or with R3 the sampler's; None if the model has no routers."""
    weight: SamplerWeight | None = None
    """π_old/π_sampler, if the advantages are to be weighted by it."""

    def weighted(self, advantage: Tensor, layout: Padded) -> Tensor | PerToken:
        """The advantages [N], times the weight of the response, or of each token."""
        if self.weight is None:
            return advantage
        weight: Any = self.weight.weight
        return advantage * weight if weight.ndim == 1 else PerToken(layout.spread(advantage) * weight)


def loss_of(
    trainer: Trainer,
    part: Responses,
    hidden: Tensor,
    old_logp: Tensor,
    advantage: Tensor | PerToken,
    denominator: Tensor | None,
) -> LinearLoss:
    """The loss, and the log-probs, from the hidden states [N, T, H] of `predicting_states`; no logits are kept."""
    head, layout = trainer.model.get_output_embeddings(), Padded(part.mask)
    return linear_policy_loss(
        trainer.objective, hidden, head.weight, part.tokens, old_logp, advantage, layout,
        denominator=denominator, bias=head.bias, temperature=trainer.config.temperature, return_logp=True,
    )  # fmt: skip


def old_pass(trainer: Trainer, part: Responses, rollup: Rollup) -> Old:
    """Log-probs of the policy that all mini-batches of a rollout are measured against: the trainer's, whatever sampled.

    They are those of a loss in which no response has an advantage, so that it has no gradient to compute. That it is the
    updates' own computation makes ratios exactly 1 at unmoved weights: `token_logp` rounds otherwise.
    """
    config = trainer.config
    with torch.no_grad(), along(trainer, part.routes if config.routing_replay == "r3" else None) as own:
        hidden = predicting_states(trainer.model, part)
    nothing = torch.zeros(part.mask.shape, device=part.mask.device)
    logp = loss_of(trainer, part, hidden.detach().requires_grad_(), nothing, nothing[:, 0], None).logp
    assert logp is not None
    if own is not None and part.routes is not None:
        rollup.add_flips(part.routes, own, updating=False)
    weight = None
    if part.logp is not None:
        layout = Padded(part.mask)
        rollup.add(sampler_metrics(config.correction or UNCORRECTED, logp, part.logp, layout))
        weight = None if config.correction is None else sampler_weight(config.correction, logp, part.logp, layout)
    return Old(logp, part.routes if config.routing_replay == "r3" else own, weight)


@contextmanager
def update_pass(trainer: Trainer, old: Old, rollup: Rollup) -> Iterator[None]:
    """For forward and backward of an update, which gradient checkpointing makes a second forward."""
    with along(trainer, None if trainer.config.routing_replay == "none" else old.routes) as own:
        yield
    if own is not None and old.routes is not None:
        rollup.add_flips(old.routes, own, updating=True)


@contextmanager
def along(trainer: Trainer, routes: Routes | None) -> Iterator[Routes | None]:
    """A pass of the model along routes, or freely; when it is over, what its routers themselves would choose, if it has any."""
    if not trainer.mixture:
        yield None
        return
    with record_routes(trainer.model) if routes is None else replay_routes(trainer.model, routes) as own:
        yield own
