"""What Tunix's learners log of a loss, and our metrics beside it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from gspo_core import Objective, PerToken, batch_metrics, merge, summary
from gspo_core.metrics import Metrics, entropy_metrics, reference_metrics
from gspo_core.objectives import Loss
from gspo_core.types import Array, Layout

from .options import kl_estimator

READ = ("clip_active", "clip_low", "clip_high", "log_s_rms", "zero_advantage", "kl_k3_per_token", "entropy_per_token", "ess")


def _number(name: str, parts: list[Metrics]) -> float:
    """A number of `summary` over the micro-batches of a step; NaN if there was none."""
    return summary(merge(*parts)).get(name, math.nan)


LOGGED: dict[str, Callable[..., Any]] = dict.fromkeys(("kl", "pg_clipfrac", "entropy"), np.mean)
LOGGED |= {f"gspo/{name}": partial(_number, name) for name in READ}
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
    logits: Array
    """[..., V]"""


def logged(batch: Batch, loss: Loss, kl_loss: Array, config: Any) -> dict[str, Any]:
    """Every name that Tunix's learners log, as they define it, and `LOGGED`'s.

    Args:
        batch: the arguments of the loss.
        loss: its result.
        kl_loss: [] the KL term, without its coefficient.
        config: Tunix's, for the estimator.

    Returns: numbers as arrays, and `Metrics` under the names of ours. "pg_loss/clipped_mean" is the mean over tokens of the
    objective's own loss; "pg_clipfrac_lower" is 0, the share that a dual clip holds being part of "pg_clipfrac".
    """
    objective, logp, old, reference, weights, advantage, layout, logits = batch
    logp, value, xp = lax.stop_gradient(logp), lax.stop_gradient(loss.value), jnp
    entropy = importlib.import_module("tunix.rl.algo_core").compute_entropy_from_logits(lax.stop_gradient(logits))
    valid, count = layout.valid, jnp.maximum(jnp.sum(layout.valid), 1)

    def at_tokens(x: Array, per_token: bool) -> Array:  # of a pack both have one axis, and as many entries
        return layout.select(x) if per_token else layout.spread(x)

    def mean(x: Array) -> Array:
        return jnp.sum(layout.select(x)) / count

    of_tokens = objective.ratio.per_token
    a = at_tokens(advantage.values, True) if isinstance(advantage, PerToken) else at_tokens(advantage, False)
    log_ratio, size = at_tokens(loss.log_ratio, of_tokens), jnp.abs(a)
    ratio, d = jnp.exp(log_ratio), layout.select(logp - (logp if old is None else old))
    gain = objective.surrogate(xp, log_ratio, a).value
    estimate = jnp.zeros_like(logp) if reference is None else kl_estimator(config)(xp, layout.select(reference - logp), d).value
    weight = jnp.ones_like(logp) if weights is None else weights
    measured = batch_metrics(objective, loss, logp, old, advantage, layout)
    measured = merge(measured, entropy_metrics(entropy, layout))
    if reference is not None:
        measured = merge(measured, reference_metrics(logp, reference, layout))
    return {
        "kl": mean(estimate),
        "kl_loss": lax.stop_gradient(kl_loss),
        "pg_loss": value,
        "pg_clipfrac": mean(at_tokens(loss.clipped.astype(logp.dtype), of_tokens)),
        "pg_clipfrac_lower": jnp.zeros(()),
        "ppo_kl": mean(-d),
        "is_ratio/mean": mean(ratio),
        "is_ratio/max": jnp.max(jnp.where(valid, ratio, 0.0)),
        "is_ratio/min": jnp.min(jnp.where(valid, ratio, jnp.inf)),
        "log_ratio/abs_mean": mean(jnp.abs(log_ratio)),
        "pg_loss/unclipped_mean": mean(-a * ratio),
        "pg_loss/clipped_mean": mean(-gain),
        "advantage/abs_mean": mean(size),
        "advantage/max": jnp.max(jnp.where(valid, a, -jnp.inf)),
        "advantage/min": jnp.min(jnp.where(valid, a, jnp.inf)),
        "advantage/nonzero_frac": mean((size > 0).astype(logp.dtype)),
        "sampler_is/weight_mean": mean(weight),
        "sampler_is/weight_min": jnp.min(jnp.where(valid, weight, jnp.inf)),
        "entropy": mean(entropy),
        **dict.fromkeys((name for name in LOGGED if name.startswith("gspo/")), measured),
    }
