"""A loss on log-probs and entropies: the objective, a KL term and an entropy bonus, as values that JAX can differentiate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from gspo_core import Loss, Objective
from gspo_jax.kl import kl_penalty
from gspo_jax.policy import policy_loss

from .head import Array, wide


class Constants(NamedTuple):
    """The arrays of a loss that are not differentiated."""

    old_logp: Any
    advantage: Any
    layout: Any
    denominator: Any
    kl: Any
    """A `KLTerm` or None."""


class Weighed(NamedTuple):
    """The loss that is minimised, and the parts that it is made of."""

    value: Array
    """[] policy loss + β KL − entropy bonus."""
    logp_grad: Array
    """Token array: ∂value/∂logp."""
    policy: Loss
    """The policy loss alone."""
    kl: Array | None
    """[] the KL estimate, before it is multiplied by β; None without a KL term."""


@dataclass(frozen=True)
class Terms:
    """The options of a loss that are not arrays; hashable, static under jit."""

    objective: Objective
    on_policy: bool
    entropy_bonus: float | None

    def weigh(self, logp: Array, entropy: Array | None, x: Constants) -> Weighed:
        """The loss at these log-probs (and entropies, if there is a bonus), token arrays."""
        arguments, reduction = (x.old_logp, x.advantage, x.layout), self.objective.reduction
        loss = policy_loss(self.objective, logp, *arguments, denominator=x.denominator, on_policy=self.on_policy)
        value, logp_grad, estimate = loss.value, loss.logp_grad, None
        if x.kl is not None:
            old = logp if x.old_logp is None else x.old_logp
            estimate, of_logp = kl_penalty(
                x.kl.estimator,
                logp,
                x.kl.ref_logp,
                x.layout,
                reduction=reduction,
                old_logp=old if x.kl.estimator.off_policy else None,
                denominator=loss.denominator,
            )
            value, logp_grad = _plus(value, x.kl.coefficient * estimate), _plus(logp_grad, x.kl.coefficient * of_logp)
        if self.entropy_bonus is not None and entropy is not None:
            share = lax.stop_gradient(reduction.weights(x.layout, True, loss.denominator))
            bonus = self.entropy_bonus * share * x.layout.select(entropy).astype(share.dtype)
            # Per sequence first: on a sharded layout the value is then whole on every rank.
            value = _plus(value, -jnp.sum(x.layout.sum(x.layout.select(bonus))))
        return Weighed(value, logp_grad, loss, estimate)


def _plus(a: Array, b: Array) -> Array:
    """a + b, in float64 if one of them is."""
    kind = wide(a, b)
    return a.astype(kind) + b.astype(kind)
