"""The loss of a micro-batch in JAX and its gradient, on one device or on a mesh.

On a mesh each device scores its own rows of the batch against its own rows of the head, inside `jax.shard_map`: no device has
another's hidden states. Devices exchange 16 bytes per token over `model` (maximum, sum, picked and mean logit), a scalar over
`data`, and gradients: of hidden states over `model`, of the head over `data`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from gspo_jax import VocabularyAxis, linear_policy_loss
from jax import lax
from jax.sharding import PartitionSpec as P

from gspo_core import Objective, Padded
from gspo_core.kl import KLTerm
from gspo_core.objectives import LinearLoss, Loss
from integration.on_jax.learner import Predicting
from integration.on_jax.mesh import DATA, MODEL, Placement, row_spec

Array = Any


@partial(jax.jit, static_argnums=(0, 1, 2))
def differentiate(
    objective: Objective,
    temperature: float,
    place: Placement,
    states: Predicting,
    tokens: Array,
    old_logp: Array,
    advantage: Array,
    layout: Padded,
    denominator: Array,
    kl: KLTerm | None,
) -> tuple[Predicting, LinearLoss]:
    """(the loss's gradient with respect to hidden states and LM head, the loss and its log-probs); compiled once a shape."""

    def value(states: Predicting) -> tuple[Array, LinearLoss]:
        batch = (tokens, old_logp, advantage, layout, denominator, kl)
        loss = (_loss if place.mesh is None else partial(_on_mesh, place))(objective, temperature, states, *batch)
        return loss.value, loss

    gradient, loss = jax.grad(value, has_aux=True)(states)
    return Predicting(place.rows(gradient.hidden), place.head(gradient.lm_head)), loss


def _loss(
    objective: Objective,
    temperature: float,
    states: Predicting,
    tokens: Array,
    old_logp: Array,
    advantage: Array,
    layout: Padded,
    denominator: Array,
    kl: KLTerm | None,
    *,
    vocabulary: VocabularyAxis | None = None,
) -> LinearLoss:
    return linear_policy_loss(
        objective, *states, tokens, old_logp, advantage, layout, vocabulary=vocabulary,
        denominator=denominator, temperature=temperature, kl=kl, return_logp=True, return_entropy=True,
    )  # fmt: skip


def _on_mesh(place: Placement, objective: Objective, temperature: float, states: Predicting, *batch: Any) -> LinearLoss:
    """The head is filled up with rows that get no probability, so that each device has as many."""
    total = states.lm_head.shape[0]
    axis = VocabularyAxis(MODEL, total) if place.model > 1 else None
    head = jnp.pad(states.lm_head, ((0, -total % place.model), (0, 0)))

    def on_device(states: Predicting, *batch: Any) -> LinearLoss:
        loss: Any = _loss(objective, temperature, states, *batch, vocabulary=axis)
        policy = loss.policy
        return loss._replace(  # type: ignore[no-any-return]  # of a LinearLoss
            value=lax.psum(loss.value, DATA),
            kl=None if loss.kl is None else lax.psum(loss.kl, DATA),
            policy=None if policy is None else policy._replace(value=lax.psum(policy.value, DATA)),
        )

    specs = (Predicting(P(DATA), P(MODEL) if axis else P()), *jax.tree.map(row_spec, batch))
    spread = jax.shard_map(on_device, mesh=place.mesh, in_specs=specs, out_specs=_loss_specs(batch[-1] is not None))
    whole: LinearLoss = spread(Predicting(states.hidden, head), *batch)
    return whole


def _loss_specs(has_kl: bool) -> Any:
    """Numbers of tokens and of sequences are with their rows; scalars are every device's."""
    whole: Any = P()
    policy = Loss(whole, P(DATA), P(DATA), P(DATA), whole, whole)
    return LinearLoss(*policy, P(DATA), P(DATA), whole if has_kl else None, policy if has_kl else None)
