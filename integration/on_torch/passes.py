"""The trainer's passes over a micro-batch: one for the old log-probs, and one per update, along the routes to be replayed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from gspo_torch import Routes, record_routes, replay_routes
from torch import Tensor

from gspo_core import Padded, PerToken, sampler_weight
from gspo_core.mismatch import SamplerWeight
from integration.on_torch.rollout import Responses, response_logp
from integration.on_torch.trainer import Trainer
from integration.shared.measure import Rollup


class Old(NamedTuple):
    """What the updates of a micro-batch are measured against."""

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


@torch.no_grad()
def old_pass(trainer: Trainer, part: Responses, rollup: Rollup) -> Old:
    """Log-probs of the policy that all mini-batches of a rollout are measured against: the trainer's, whatever sampled."""
    config = trainer.config
    with along(trainer, part.routes if config.routing_replay == "r3" else None) as own:
        logp = response_logp(trainer.model, part, config.temperature)
    if own is not None and part.routes is not None:
        rollup.add_flips(part.routes, own, updating=False)
    weight = None
    if part.logp is not None:
        layout = Padded(part.mask)
        rollup.add_gap(logp, part.logp, layout)
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
