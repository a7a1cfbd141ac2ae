"""What Tunix's learners log of a loss, and our metrics beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from gspo_core import Objective, PerToken, batch_metrics, merge
from gspo_core.metrics import entropy_metrics, reference_metrics
from gspo_core.objectives import Loss
from gspo_core.types import Array, Layout

from .contract import Reading, quotient
from .options import kl_estimator

READ = ("clip_active", "clip_low", "clip_high", "log_s_rms", "zero_advantage", "kl_k3_per_token", "entropy_per_token", "ess")
LOGGED: dict[str, Callable[..., Any]] = dict.fromkeys(("kl", "pg_clipfrac", "entropy", *(f"gspo/{x}" for x in READ)), np.mean)
"""For `actor_trainer.with_rl_metrics_to_log`, after the learner is made. Ours are of all responses of a step, however cut."""


class Batch(NamedTuple):
    """The arguments of a loss, as token arrays of its layout."""

    objective: Objective
    logp: Array
    old: Array | None
    reference: Array | None
    weights: Array | None
    advantage: Array | PerToken
    layout: Layout
    entropy: Array


def logged(batch: Batch, loss: Loss, kl_loss: Array, config: Any) -> dict[str, Any]:
    """Every name that Tunix's learners log, as they define it, and `LOGGED`'s.

    Args:
        batch: the arguments of the loss.
        loss: its result.
        kl_loss: [] the KL term, without its coefficient.
        config: Tunix's, for the estimator.

    Returns: quotients and numbers as the contract takes them, and a `Reading` under each name of ours. "pg_loss/clipped_mean"
    is the mean over tokens of the objective's own loss; "pg_clipfrac_lower" is 0, the share that a dual clip holds being part
    of "pg_clipfrac".
    """
    objective, logp, old, reference, weights, advantage, layout, entropy = batch
    logp, value, kl_loss, xp = *(lax.stop_gradient(x) for x in (logp, loss.value, kl_loss)), jnp
    valid, of_tokens, count = layout.valid, objective.ratio.per_token, objective.count(layout)

    def at_tokens(x: Array, per_token: bool) -> Array:  # of a pack both have one axis, and as many entries
        return layout.select(x) if per_token else layout.spread(x)

    def mean(x: Array) -> Any:
        return quotient(jnp.sum(layout.select(x)), jnp.sum(valid))

    a = at_tokens(advantage.values, True) if isinstance(advantage, PerToken) else at_tokens(advantage, False)
    log_ratio, size = at_tokens(loss.log_ratio, of_tokens), jnp.abs(a)
    ratio, d = jnp.exp(log_ratio), layout.select(logp - (logp if old is None else old))
    gain = objective.surrogate(xp, log_ratio, a).value
    estimate = jnp.zeros_like(logp) if reference is None else kl_estimator(config)(xp, layout.select(reference - logp), d).value
    weight = jnp.ones_like(logp) if weights is None else weights
    measured = merge(batch_metrics(objective, loss, logp, old, advantage, layout), entropy_metrics(entropy, layout))
    if reference is not None:
        measured = merge(measured, reference_metrics(logp, reference, layout))
    means = {
        "kl": estimate,
        "pg_clipfrac": at_tokens(loss.clipped.astype(logp.dtype), of_tokens),
        "ppo_kl": -d,
        "is_ratio/mean": ratio,
        "log_ratio/abs_mean": jnp.abs(log_ratio),
        "pg_loss/unclipped_mean": -a * ratio,
        "pg_loss/clipped_mean": -gain,
        "advantage/abs_mean": size,
        "advantage/nonzero_frac": (size > 0).astype(logp.dtype),
        "sampler_is/weight_mean": weight,
        "entropy": entropy,
    }
    return {
        **{name: mean(x) for name, x in means.items()},
        "kl_loss": quotient(kl_loss * loss.denominator, count),
        "pg_loss": value,
        "reduced_pg_loss": value,
        "unreduced_pg_loss": quotient(value * loss.denominator, count),
        "pg_clipfrac_lower": jnp.zeros(()),
        "is_ratio/max": jnp.max(jnp.where(valid, ratio, 0.0)),
        "is_ratio/min": jnp.min(jnp.where(valid, ratio, jnp.inf)),
        "advantage/max": jnp.max(jnp.where(valid, a, -jnp.inf)),
        "advantage/min": jnp.min(jnp.where(valid, a, jnp.inf)),
        "sampler_is/weight_min": jnp.min(jnp.where(valid, weight, jnp.inf)),
        **{f"gspo/{name}": Reading(measured, name) for name in READ},
    }
