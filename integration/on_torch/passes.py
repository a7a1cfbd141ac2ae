"""The trainer's passes over a micro-batch: one for the old log-probs, and one per update, along the routes to be replayed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from gspo_torch import Routes, record_routes, replay_routes
from torch import Tensor

from gspo_core import Padded, PerToken, sampler_weight
from gspo_core.kl import KLTerm
from gspo_core.metrics import sampler_metrics
from gspo_core.mismatch import SamplerWeight
from gspo_core.objectives import LinearLoss
from integration.on_torch.parallel.context import Split
from integration.on_torch.parallel.scoring import spread_loss
from integration.on_torch.recompute import recomputing
from integration.on_torch.sampling.head_check import head_of
from integration.on_torch.sampling.rollout import Responses, predicting_states
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
    kl: KLTerm | None = None
    """The penalty on the KL divergence from the reference policy, if there is one."""

    def weighted(self, advantage: Tensor, layout: Padded) -> Tensor | PerToken:
        """The advantages [N], times the weight of the response, or of each token."""
        if self.weight is None:
            return advantage
        weight: Any = self.weight.weight
        return advantage * weight if weight.ndim == 1 else PerToken(layout.spread(advantage) * weight)


class Given(NamedTuple):
    """Inputs of a pass over a micro-batch."""

    part: Responses
    split: Split | None
    """With --context-parallel, this process's columns."""
    old: Old
    advantage: Tensor | PerToken
    denominator: Tensor | None


def loss_of(trainer: Trainer, given: Given, model: Any) -> LinearLoss:
    """The loss of an update, and the log-probs, with a pass of the model."""
    return head_loss(trainer, given, states_of(trainer, given, model), model)


def states_of(trainer: Trainer, given: Given, model: Any) -> Tensor:
    """[N, T, H] the states that predict the responses' tokens; with a split, [N, w, H] of its columns."""
    reading, split = trainer.sampler.reading, given.split
    return predicting_states(model, given.part, reading) if split is None else split.states()


def head_loss(trainer: Trainer, given: Given, hidden: Tensor, model: Any) -> LinearLoss:
    """The loss, and the log-probs, from the hidden states of `states_of`; no logits are kept."""
    return spread_loss(
        trainer.objective, hidden, head_of(model), given.part, given.old.logp, given.advantage,
        denominator=given.denominator, kl=given.old.kl, temperature=trainer.config.temperature, split=given.split,
        vocabulary=trainer.processes.vocabulary,
    )  # fmt: skip


def old_pass(trainer: Trainer, part: Responses, rollup: Rollup) -> Old:
    """Log-probs of the policy that all mini-batches of a rollout are measured against: the trainer's, whatever sampled.

    The reference policy's are measured here as well, by the same computation.
    """
    config = trainer.config
    with along(trainer, part.routes if config.routing_replay == "r3" else None) as own:
        logp = measured_logp(trainer, trainer.model, part)
    if own is not None and part.routes is not None:
        rollup.add_flips(part.routes, own, updating=False)
    weight = None
    if part.logp is not None:
        layout = Padded(part.mask)
        rollup.add(sampler_metrics(config.correction or UNCORRECTED, logp, part.logp, layout))
        weight = None if config.correction is None else sampler_weight(config.correction, logp, part.logp, layout)
    kl = None
    if trainer.reference is not None:
        kl = trainer.reference.term(measured_logp(trainer, trainer.reference.model, part))
    return Old(logp, part.routes if config.routing_replay == "r3" else own, weight, kl)


def measured_logp(trainer: Trainer, model: Any, part: Responses) -> Tensor:
    """[N, T] log-probs of the responses under a model: those of a loss in which no response has an advantage.

    That it is the updates' own computation makes ratios exactly 1, and a KL estimate exactly 0, where the weights are equal:
    `token_logp` rounds otherwise.
    """
    nothing = torch.zeros(part.mask.shape, device=part.mask.device)
    with spread(trainer, model, part) as split:
        given = Given(part, split, Old(nothing), nothing[:, 0], None)
        with torch.no_grad():
            hidden = states_of(trainer, given, model)
        logp = head_loss(trainer, given, hidden.requires_grad_(), model).logp
    assert isinstance(logp, Tensor)
    return logp


def sampler_gap(trainer: Trainer, responses: Responses) -> float | None:
    """Nats by which a few rows' log-probs in the sampler differ from the trainer's before the update, at the worst token.

    None with an engine that differs on purpose, whose gap is in the metrics of the mismatch.
    """
    if trainer.config.mismatch or responses.watched is None:
        return None
    chosen = torch.tensor(list(responses.watched), device=responses.tokens.device)
    part = responses.rows(chosen)
    drawn = torch.stack(list(responses.watched.values()))[:, : part.tokens.shape[1]]
    return float((measured_logp(trainer, trainer.model, part) - drawn)[part.mask].abs().max())


def spread(trainer: Trainer, model: Any, part: Responses) -> AbstractContextManager[Split | None]:
    """Around a pass over a micro-batch, whose columns --context-parallel shares out."""
    context = trainer.processes.context
    return nullcontext() if context is None else context.split(model, part)


@contextmanager
def update_pass(trainer: Trainer, part: Responses, old: Old, rollup: Rollup) -> Iterator[Split | None]:
    """For forward and backward of an update, which gradient checkpointing makes a second forward."""
    again = recomputing(trainer.model) if trainer.config.gradient_checkpointing else nullcontext()
    routes = None if trainer.config.routing_replay == "none" else old.routes
    with along(trainer, routes) as own, again, spread(trainer, trainer.model, part) as split:
        yield split
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
