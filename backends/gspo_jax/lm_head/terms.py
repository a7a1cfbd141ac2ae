"""A loss on log-probs and entropies: the objective, a KL term and an entropy bonus, as values that JAX can differentiate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gspo_core import Loss, Objective
from gspo_core.backend import as_number, token_shares
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
    bonus: Any = None
    """β of the entropy bonus, [] or a number; None: no bonus."""


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
    has_bonus: bool
    """Whether there is an entropy bonus."""

    def weigh(self, logp: Array, entropy: Array | None, x: Constants) -> Weighed:
        """The loss at these log-probs (and entropies, if there is a bonus), token arrays."""
        arguments = (x.old_logp, x.advantage, x.layout)
        loss = policy_loss(self.objective, logp, *arguments, denominator=x.denominator, on_policy=self.on_policy)
        value, logp_grad, estimate, reduction = loss.value, loss.logp_grad, None, self.objective.reduction
        if x.kl is not None:
            beta, old = x.kl.coefficient, logp if x.old_logp is None else x.old_logp
            estimate, of_logp, _ = kl_penalty(
                x.kl.estimator,
                jnp.where(beta == 0, lax.stop_gradient(logp), logp),  # 0 times an infinite slope is no gradient
                x.kl.ref_logp,
                x.layout,
                reduction=reduction,
                old_logp=old if x.kl.estimator.off_policy else None,
                denominator=loss.denominator,
            )
            value, logp_grad = _plus(value, _times(beta, estimate)), _plus(logp_grad, _times(beta, of_logp))
        if self.has_bonus and entropy is not None:
            share = token_shares(reduction, x.layout, loss.denominator)
            bonus = _times(x.bonus, share) * x.layout.select(entropy).astype(share.dtype)
            # Per sequence first: on a sharded layout the value is then whole on every rank.
            value = _plus(value, -jnp.sum(x.layout.sum(x.layout.select(bonus))))
        return Weighed(value, logp_grad, loss, estimate)


def factor_of(coefficient: Any) -> Array:
    """[] a coefficient as an array of JAX's, whatever number it was."""
    return coefficient if isinstance(coefficient, jax.Array) else jnp.asarray(as_number("coefficient", coefficient))


def _times(coefficient: Any, x: Array) -> Array:
    """The product in x's dtype; 0 for a coefficient of 0, whatever x is."""
    factor = coefficient.astype(x.dtype)
    return jnp.where(factor == 0, jnp.zeros_like(x), factor * x)


def _plus(a: Array, b: Array) -> Array:
    """a + b, in float64 if one of them is."""
    kind = wide(a, b)
    return a.astype(kind) + b.astype(kind)
