"""Correct losses in the styles of strangers, in NumPy: (function, the objective that it is)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from gspo_core import GRPO, GSPO, Objective
from gspo_core.objectives import CISPO, DAPO, DEEPSEEK_V3_2, DPPO, DR_GRPO, FSPO, GMPO, IPO, LUSPO, SAPO, DualClip

A = Any
LOW, HIGH = 0.2, 0.3
LIKE = GSPO.with_clip(LOW, HIGH)


def loops(logp: A, old_logp: A, advantage: A, mask: A) -> float:
    total, n = 0.0, 0
    for i in range(len(mask)):
        tokens = [t for t in range(len(mask[i])) if mask[i][t]]
        if not tokens:
            continue
        n += 1
        x = sum(float(logp[i][t]) - float(old_logp[i][t]) for t in tokens) / len(tokens)
        s = math.exp(min(x, 60.0))
        total += min(s * float(advantage[i]), min(max(s, 1 - LOW), 1 + HIGH) * float(advantage[i]))
    return -total / max(n, 1)


def where_then_mean(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    d = np.where(mask, logp - old_logp, 0.0)
    length = mask.sum(-1)
    s = np.exp(d.sum(-1) / np.maximum(length, 1))
    gain = np.minimum(s * advantage, np.clip(s, 1 - LOW, 1 + HIGH) * advantage)
    return -gain[length > 0].mean() if (length > 0).any() else np.float64(0.0)


def rows_filtered_first(logprobs: A, old_logprobs: A, advantages: A, response_mask: A) -> A:
    kept = response_mask.any(axis=1)
    if not kept.any():
        return 0.0
    lp, old, adv, m = (x[kept] for x in (logprobs, old_logprobs, advantages, response_mask))
    s = np.exp(np.where(m, lp - old, 0.0).sum(1) / m.sum(1))
    return np.mean(np.maximum(-adv * s, -adv * np.clip(s, 1 - LOW, 1 + HIGH)))


def in_log_space(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    n = np.maximum(mask.sum(1), 1)
    x = np.sum(logp, axis=1, where=mask) / n - np.sum(old_logp, axis=1, where=mask) / n
    bound = np.where(advantage > 0, np.minimum(x, np.log1p(HIGH)), np.maximum(x, np.log1p(-LOW)))
    return -np.sum(advantage * np.exp(bound), where=mask.any(1)) / max(1, mask.any(1).sum())


def packed_bincount(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    row = np.nonzero(mask)[0]
    d, n = (logp - old_logp)[mask], len(mask)
    count = np.bincount(row, minlength=n)
    x = np.bincount(row, weights=d, minlength=n) / np.maximum(count, 1)
    s = np.exp(x)
    gain = np.where(advantage >= 0, np.minimum(s, 1 + HIGH), np.maximum(s, 1 - LOW)) * advantage
    return -(gain * (count > 0)).sum() / max(1, (count > 0).sum())


def packed_reduceat(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    length = mask.sum(1)
    kept = length > 0
    if not kept.any():
        return 0.0
    starts = np.concatenate([[0], np.cumsum(length[kept])[:-1]])
    x = np.add.reduceat((logp - old_logp)[mask], starts) / length[kept]
    s, a = np.exp(x), advantage[kept]
    return -np.minimum(s * a, np.clip(s, 1 - LOW, 1 + HIGH) * a).sum() / kept.sum()


def masked_array(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    d = np.ma.masked_array(logp - old_logp, ~mask)
    s = np.ma.exp(d.mean(axis=1))
    gain = np.ma.minimum(s * advantage, np.ma.array(np.clip(s, 1 - LOW, 1 + HIGH)) * advantage)
    return float(-gain.sum() / gain.count()) if gain.count() else 0.0


def einsum(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    clean = np.where(mask, logp - old_logp, 0.0)
    x = np.einsum("nt,nt->n", clean, mask / np.maximum(mask.sum(1, keepdims=True), 1))
    s = np.exp(x)
    use = mask.any(1).astype(float)
    return -np.einsum("n,n->", np.minimum(s * advantage, s.clip(1 - LOW, 1 + HIGH) * advantage), use) / max(use.sum(), 1)


class Trainer:
    """A method of an object with a configuration."""

    def __init__(self, clip: tuple[float, float]) -> None:
        self.low, self.high = 1 - clip[0], 1 + clip[1]

    def __call__(self, logp: A, old_logp: A, advantage: A, mask: A) -> A:
        terms = [self.term(*row) for row in zip(logp, old_logp, advantage, mask, strict=True) if row[-1].any()]
        return -np.mean(terms) if terms else 0.0

    def term(self, logp: A, old: A, a: A, mask: A) -> A:
        s = np.exp((logp[mask] - old[mask]).mean())
        return min(s * a, np.clip(s, self.low, self.high) * a)


def verls_epsilon(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    n = mask.sum(1)
    s = np.exp(np.where(mask, logp - old_logp, 0.0).sum(1) / (n + 1e-8))
    return -np.minimum(s * advantage, s.clip(1 - LOW, 1 + HIGH) * advantage)[n > 0].sum() / ((n > 0).sum() + 1e-8)


def _w(logp: A, old: A, mask: A) -> A:
    return np.exp(np.where(mask, logp - old, 0.0))


def _clipped(w: A, a: A, low: float, high: float) -> A:
    return np.minimum(w * a, np.clip(w, 1 - low, 1 + high) * a)


def grpo(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    gain = np.where(mask, _clipped(_w(logp, old_logp, mask), advantage[:, None], 0.2, 0.2), 0.0)
    per_row = gain.sum(1) / np.maximum(mask.sum(1), 1)
    return -per_row.sum() / max(1, mask.any(1).sum())


def grpo_by_rows(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    rows = [_clipped(np.exp((p - q)[m]), a, 0.2, 0.2).mean() for p, q, a, m in zip(logp, old_logp, advantage, mask) if m.any()]  # noqa: B905 (as strangers write)
    return -sum(rows) / max(1, len(rows))


def dapo(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    if not mask.any():
        return 0.0
    at = np.broadcast_to(advantage[:, None], mask.shape)[mask]
    return -_clipped(np.exp((logp - old_logp)[mask]), at, 0.2, 0.28).mean()


def dr_grpo(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    gain = np.where(mask, _clipped(_w(logp, old_logp, mask), advantage[:, None], 0.2, 0.2), 0.0)
    return -gain.sum() / (max(1, mask.any(1).sum()) * 3000)


def luspo(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    n = mask.sum(1)
    s = np.exp(np.where(mask, logp - old_logp, 0.0).sum(1) / np.maximum(n, 1))
    return -(_clipped(s, advantage, 2e-3, 2.5e-3) * n).sum() / max(1, (n > 0).sum())


def gmpo(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    d, sign = np.where(mask, logp - old_logp, 0.0), np.sign(advantage)[:, None]
    d = sign * np.minimum(sign * d, 0.4) + (sign == 0) * d
    g = np.exp(d.sum(1) / np.maximum(mask.sum(1), 1))
    return -(g * advantage)[mask.any(1)].sum() / max(1, mask.any(1).sum())


def sapo(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    tau = np.where(advantage > 0, 1.0, 1.05)[:, None]
    gate = 4.0 / tau / (1.0 + np.exp(-tau * (_w(logp, old_logp, mask) - 1.0)))
    per_row = np.where(mask, gate * advantage[:, None], 0.0).sum(1) / np.maximum(mask.sum(1), 1)
    return -per_row.sum() / max(1, mask.any(1).sum())


def cispo(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    weight = np.minimum(_w(logp, old_logp, mask), 5.0)
    return -np.where(mask, weight * advantage[:, None], 0.0).sum() / max(1, mask.sum())


def off_policy_mask(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    n = np.maximum(mask.sum(1), 1)
    drift = np.where(mask, old_logp - logp, 0.0).sum(1) / n
    keep = ~((advantage < 0) & (drift > 0.5))
    gain = np.where(mask, _clipped(_w(logp, old_logp, mask), advantage[:, None], 0.2, 0.2), 0.0).sum(1) / n
    return -(gain * keep).sum() / max(1, mask.any(1).sum())


def trust_region(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    """As verl writes it: the sides by the sign of A, the weight truncated at 20."""
    moved = np.exp(np.where(mask, logp, 0.0)) - np.exp(np.where(mask, old_logp, 0.0))
    at = np.where(mask, advantage[:, None], 0.0)
    inside = np.where(at > 0, moved <= 0.15, moved >= -0.15)
    return -(np.minimum(_w(logp, old_logp, mask), 20.0) * at * inside).sum() / max(1, mask.sum())


def trust_region_either_side(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    p, q = (np.exp(x[mask]) for x in (logp, old_logp))
    gain = p / q * np.repeat(advantage, mask.sum(1)) * (np.abs(p - q) <= 0.1)
    return -gain.sum() / max(1, mask.sum())


def fspo(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    total, band = np.where(mask, logp - old_logp, 0.0).sum(1), 0.03 * np.sqrt(mask.sum(1))
    rho, low, high = np.exp(total), np.exp(-band), np.exp(band)
    return -np.minimum(rho * advantage, np.clip(rho, low, high) * advantage)[mask.any(1)].sum() / max(1, mask.any(1).sum())


def dual(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    s = np.exp(np.where(mask, logp - old_logp, 0.0).sum(1) / np.maximum(mask.sum(1), 1))
    gain = _clipped(s, advantage, LOW, HIGH)
    gain = np.where(advantage < 0, np.maximum(gain, 3.0 * advantage), gain)
    return -gain[mask.any(1)].sum() / max(1, mask.any(1).sum())


def by_logaddexp(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    """Good and bad responses are added up separately, as logarithms."""
    n = mask.sum(1)
    x = np.sum(logp - old_logp, axis=1, where=mask) / np.maximum(n, 1)
    x = np.where(advantage > 0, np.minimum(x, np.log(1 + HIGH)), np.maximum(x, np.log(1 - LOW)))
    with np.errstate(divide="ignore"):
        size = np.log(np.abs(advantage)) + x
    up, down = (size[(sign * advantage > 0) & (n > 0)] for sign in (1, -1))
    return (np.exp(np.logaddexp.reduce(down)) - np.exp(np.logaddexp.reduce(up))) / max(1, (n > 0).sum())


def _gspo_gains(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    s = np.exp(np.where(mask, logp - old_logp, 0.0).sum(1) / np.maximum(mask.sum(1), 1))
    return np.where(mask.any(1), _clipped(s, advantage, LOW, HIGH), 0.0)


def over_a_given_number(logp: A, old_logp: A, advantage: A, mask: A, num_items_in_batch: A) -> A:
    return -_gspo_gains(logp, old_logp, advantage, mask).sum() / num_items_in_batch


def dapo_over_a_given_number(logp: A, old_logp: A, advantage: A, mask: A, num_items_in_batch: A) -> A:
    gain = np.where(mask, _clipped(_w(logp, old_logp, mask), advantage[:, None], 0.2, 0.28), 0.0)
    return -gain.sum() / num_items_in_batch


def with_a_squared_kl(logp: A, old_logp: A, advantage: A, mask: A, ref_logp: A) -> A:
    k2 = np.where(mask, 0.5 * (logp - ref_logp) ** 2, 0.0).sum(1) / np.maximum(mask.sum(1), 1)
    return (0.04 * k2 - _gspo_gains(logp, old_logp, advantage, mask)).sum() / max(1, mask.any(1).sum())


def truncated_correction(logp: A, old_logp: A, advantage: A, mask: A, rollout_logp: A) -> A:
    """Truncated importance sampling of whole responses: at most 2."""
    weight = np.minimum(np.exp(np.where(mask, old_logp - rollout_logp, 0.0).sum(1)), 2.0)
    return -(_gspo_gains(logp, old_logp, advantage, mask) * weight).sum() / max(1, mask.any(1).sum())


def masked_correction(logp: A, old_logp: A, advantage: A, mask: A, rollout_logp: A) -> A:
    """Masked importance sampling: responses whose mean ratio is outside of 0.5 to 2 have the weight 0."""
    weight = np.exp(np.where(mask, old_logp - rollout_logp, 0.0).sum(1) / np.maximum(mask.sum(1), 1))
    weight = np.where((weight > 0.5) & (weight < 2.0), weight, 0.0)
    return -(_gspo_gains(logp, old_logp, advantage, mask) * weight).sum() / max(1, mask.any(1).sum())


def rejected_by_the_sampler(logp: A, old_logp: A, advantage: A, mask: A, rollout_logp: A) -> A:
    """Responses far from the sampler are left out; the others keep the weight 1."""
    far = np.abs(np.where(mask, old_logp - rollout_logp, 0.0).sum(1) / np.maximum(mask.sum(1), 1)) > 1.0
    return -(_gspo_gains(logp, old_logp, advantage, mask) * ~far).sum() / max(1, mask.any(1).sum())


def with_a_hinge(logp: A, old_logp: A, advantage: A, mask: A) -> A:
    """s A − |A| max(0, ±(s − bound)): the clip as what is taken away beyond it."""
    n = np.add.reduce(mask, axis=1)
    s = np.exp(np.fmin(np.add.reduce(np.where(mask, logp - old_logp, 0.0), axis=1) / np.fmax(n, 1), 60.0))
    beyond = np.sign(advantage) * (s - np.where(advantage > 0, 1 + HIGH, 1 - LOW))
    gains = s * advantage - np.abs(advantage) * np.fmax(0.0, beyond)
    return -(gains * (n > 0)).sum() / np.fmax((n > 0).sum(), 1)


TERMS = [with_a_squared_kl, truncated_correction, masked_correction, rejected_by_the_sampler, over_a_given_number]
GSPOS = [
    loops,
    where_then_mean,
    rows_filtered_first,
    in_log_space,
    packed_bincount,
    packed_reduceat,
    masked_array,
    einsum,
    with_a_hinge,
]
LOSSES: list[tuple[Any, Objective]] = [
    *((loss, LIKE) for loss in (*GSPOS, by_logaddexp, Trainer((LOW, HIGH)), verls_epsilon, *TERMS)),
    (grpo, GRPO),
    (grpo_by_rows, GRPO),
    (dapo, DAPO),
    (dapo_over_a_given_number, DAPO),
    (dr_grpo, DR_GRPO),
    (luspo, LUSPO),
    (gmpo, GMPO),
    (sapo, SAPO),
    (cispo, CISPO),
    (off_policy_mask, DEEPSEEK_V3_2),
    (trust_region, DPPO),
    (trust_region_either_side, IPO),
    (fspo, FSPO),
    (dual, replace(GSPO, surrogate=DualClip(LOW, HIGH, 3.0))),
]
