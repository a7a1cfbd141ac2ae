"""Correct losses in the styles of strangers, in JAX: (function, the objective that it is)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from support.honest.in_numpy import HIGH, LIKE, LOW

from gspo_core import GRPO, Objective
from gspo_core.objectives import CISPO, DAPO, GMPO, LUSPO, SAPO

A = Any


def _surrogate(s: A, a: A, low: float = LOW, high: float = HIGH) -> A:
    return jnp.minimum(s * a, jnp.clip(s, 1 - low, 1 + high) * a)


def _rows(gain: A, mask: A) -> A:
    return -jnp.sum(jnp.where(mask.any(-1), gain, 0.0)) / jnp.maximum(mask.any(-1).sum(), 1)


def masked_mean(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    x = jnp.where(mask, logp - old_logp, 0.0).sum(-1) / jnp.maximum(mask.sum(-1), 1)
    return _rows(_surrogate(jnp.exp(x), advantage), mask)


def segment_sum(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    n = mask.shape[0]
    row = jnp.where(mask, jnp.arange(n)[:, None], n).ravel()
    d = jnp.where(mask, logp - old_logp, 0.0).ravel()
    total = jax.ops.segment_sum(d, row, num_segments=n + 1)[:n]
    count = jax.ops.segment_sum(jnp.ones_like(d), row, num_segments=n + 1)[:n]
    gain = _surrogate(jnp.exp(total / jnp.maximum(count, 1.0)), advantage)
    return -jnp.sum(jnp.where(count > 0, gain, 0.0)) / jnp.maximum((count > 0).sum(), 1)


def vmapped(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    def one(lp: A, old: A, a: A, m: A) -> A:
        s = jnp.exp(jnp.sum(lp - old, where=m) / jnp.maximum(m.sum(), 1))
        return _surrogate(s, a)

    return _rows(jax.vmap(one)(logp, old_logp, advantage, mask), mask)


def scanned(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    def step(carry: A, row: A) -> A:
        lp, old, a, m = row
        s = jnp.exp(jnp.where(m, lp - old, 0.0).sum() / jnp.maximum(m.sum(), 1))
        return (carry[0] + jnp.where(m.any(), _surrogate(s, a), 0.0), carry[1] + m.any()), None

    start = (jnp.zeros((), logp.dtype), jnp.zeros((), jnp.int32))
    (total, count), _ = jax.lax.scan(step, start, (logp, old_logp, advantage, mask))
    return -total / jnp.maximum(count, 1)


@jax.jit
def jitted(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    return masked_mean(logp, old_logp, advantage, mask)


@jax.custom_vjp
def _gain(x: A, a: A) -> A:
    return _surrogate(jnp.exp(x), a)


def _gain_forward(x: A, a: A) -> A:
    s = jnp.exp(x)
    shut = ((a > 0) & (s > 1 + HIGH)) | ((a < 0) & (s < 1 - LOW))
    return _surrogate(s, a), (jnp.where(shut, 0.0, s * a), jnp.zeros_like(a))


def _gain_backward(kept: A, g: A) -> A:
    return g * kept[0], kept[1]


_gain.defvjp(_gain_forward, _gain_backward)


def custom_vjp(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    x = jnp.where(mask, logp - old_logp, 0.0).sum(-1) / jnp.maximum(mask.sum(-1), 1)
    return _rows(_gain(x, advantage), mask)


def loop_over_rows(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    total = 0.0
    for i in range(mask.shape[0]):
        x = jnp.where(mask[i], logp[i] - old_logp[i], 0.0).sum() / jnp.maximum(mask[i].sum(), 1)
        total = total + jnp.where(mask[i].any(), _surrogate(jnp.exp(x), advantage[i]), 0.0)
    return -total / jnp.maximum(mask.any(-1).sum(), 1)


def einsum(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    m = mask.astype(logp.dtype)
    share = m / jnp.maximum(m.sum(1, keepdims=True), 1)
    s = jnp.exp(jnp.einsum("nt,nt->n", jnp.where(mask, logp - old_logp, 0.0), share))
    return _rows(_surrogate(s, advantage), mask)


def in_log_space(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    x = jnp.where(mask, logp - old_logp, 0.0).sum(-1) / jnp.maximum(mask.sum(-1), 1)
    high, low = jnp.log1p(HIGH), jnp.log1p(-LOW)
    x = jnp.where(advantage > 0, jnp.minimum(x, high), jnp.where(advantage < 0, jnp.maximum(x, low), x))
    return _rows(jnp.exp(x) * advantage, mask)


def in_float32(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    return masked_mean(*(x.astype(jnp.float32) for x in (logp, old_logp, advantage)), mask)


def stop_gradients(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    return masked_mean(logp, jax.lax.stop_gradient(old_logp), jax.lax.stop_gradient(advantage), mask)


def looks_at_values(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    if not bool(mask.any()):
        return 0.0 * logp.sum()
    return masked_mean(logp, old_logp, advantage, mask)


def _w(logp: A, old: A, mask: A) -> A:
    return jnp.exp(jnp.where(mask, logp - old, 0.0))


def grpo(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    gain = jnp.where(mask, _surrogate(_w(logp, old_logp, mask), advantage[:, None], 0.2, 0.2), 0.0)
    return _rows(gain.sum(-1) / jnp.maximum(mask.sum(-1), 1), mask)


def dapo(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    gain = _surrogate(_w(logp, old_logp, mask), advantage[:, None], 0.2, 0.28)
    return -jnp.sum(gain, where=mask) / jnp.maximum(mask.sum(), 1)


def luspo(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    n = mask.sum(-1)
    s = jnp.exp(jnp.where(mask, logp - old_logp, 0.0).sum(-1) / jnp.maximum(n, 1))
    return _rows(_surrogate(s, advantage, 2e-3, 2.5e-3) * n, mask)


def sapo(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    a = advantage[:, None]
    tau = jnp.where(a > 0, 1.0, 1.05)
    gain = 4 / tau * jax.nn.sigmoid(tau * (_w(logp, old_logp, mask) - 1)) * a
    return _rows(jnp.where(mask, gain, 0.0).sum(-1) / jnp.maximum(mask.sum(-1), 1), mask)


def gmpo(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    d, a = jnp.where(mask, logp - old_logp, 0.0), advantage[:, None]
    d = jnp.where(a > 0, jnp.minimum(d, 0.4), jnp.where(a < 0, jnp.maximum(d, -0.4), d))
    return _rows(jnp.exp(d.sum(-1) / jnp.maximum(mask.sum(-1), 1)) * advantage, mask)


def cispo(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    weight = jax.lax.stop_gradient(jnp.minimum(_w(logp, old_logp, mask), 5.0))
    clean = jnp.where(mask, logp, 0.0)
    gain = weight * advantage[:, None] * (1 + clean - jax.lax.stop_gradient(clean))
    return -jnp.sum(jnp.where(mask, gain, 0.0)) / jnp.maximum(mask.sum(), 1)


def cispo_as_printed(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    weight = jax.lax.stop_gradient(jnp.minimum(_w(logp, old_logp, mask), 5.0))
    return -jnp.sum(weight * advantage[:, None] * logp, where=mask) / jnp.maximum(mask.sum(), 1)


GSPOS = [masked_mean, segment_sum, vmapped, scanned, jitted, custom_vjp, loop_over_rows, einsum, in_log_space, in_float32]
LOSSES: list[tuple[Any, Objective]] = [
    *((loss, LIKE) for loss in (*GSPOS, stop_gradients, looks_at_values)),
    (grpo, GRPO),
    (dapo, DAPO),
    (luspo, LUSPO),
    (sapo, SAPO),
    (gmpo, GMPO),
    (cispo, CISPO),
    (cispo_as_printed, CISPO),
]
