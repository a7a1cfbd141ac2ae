"""A loss on log-probs and entropies: the objective, a KL term and an entropy bonus, as values that JAX can differentiate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gspo_core import Loss, Objective, kl_penalty
from gspo_core.kl import KLEstimator, KLPenalty
from gspo_core.types import Reduction
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
            old = x.old_logp if x.kl.estimator.off_policy else None
            about = _About(old, x.kl.ref_logp, x.layout, lax.stop_gradient(loss.denominator))
            estimate, of_logp = _divergence((x.kl.estimator, reduction), logp, about)
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


class _About(NamedTuple):
    """The constants of a KL term; `old_logp` is None on policy, and for an estimator that does not use it."""

    old_logp: Any
    ref_logp: Any
    layout: Any
    denominator: Any


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _divergence(static: tuple[KLEstimator, Reduction], logp: Array, about: _About) -> tuple[Array, Array]:
    """([] KL estimate, its weight ∂estimate/∂logp); the derivative of the estimate is the weight, whatever the estimator."""
    found = _penalty(static, logp, about)
    return found.value, found.logp_grad


@_divergence.defjvp
def _divergence_jvp(
    static: tuple[KLEstimator, Reduction], primals: tuple[Array, _About], tangents: tuple[Array, Any]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    logp, about = primals
    value, weight = _divergence(static, logp, about)
    # Computed from the inputs again, so that JAX can differentiate the weight itself.
    moving = _penalty(static, logp, about).logp_grad
    # Per sequence first, as the value: on a sharded layout the tangent, too, is whole on every rank.
    tangent = jnp.sum(about.layout.sum(moving * tangents[0].astype(moving.dtype)))
    return (value, weight), (tangent.astype(value.dtype), jnp.zeros_like(weight))


def _penalty(static: tuple[KLEstimator, Reduction], logp: Array, about: _About) -> KLPenalty:
    estimator, reduction = static
    old = about.old_logp
    if estimator.off_policy and old is None:  # on policy: the ratio is 1, its derivative is not 0
        old = lax.stop_gradient(logp)
    return kl_penalty(
        estimator,
        logp,
        about.ref_logp,
        about.layout,
        reduction=reduction,
        old_logp=old,
        denominator=about.denominator,
    )
