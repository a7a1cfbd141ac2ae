"""Mutants: what is reported, how ratios compose, where rounding goes, and what a token form must share with GSPO."""

from __future__ import annotations

from typing import Any

import numpy as np

from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.packing import OwnGradient

from .mutant import (
    HIGH,
    LIKE_TOKEN,
    LOW,
    A,
    Mutant,
    column,
    exp,
    gain,
    gspo,
    gspo_weight,
    log_s,
    mean,
    ratios,
    size,
    token_mean,
)


def _shut(x: A, a: A) -> A:
    return ((a > 0) & (x > np.log1p(HIGH))) | ((a < 0) & (x < np.log1p(-LOW)))


def sum_is_reported(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """The log of ρ in the place of log s."""
    x = log_s(logp, old, mask)
    total = ratios(logp, old, mask).sum(axis=1)
    return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask), total, _shut(x, a) & mask.any(axis=1))


def both_sides_are_counted(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """Outside of the band is clipped, whatever the sign of A."""
    x = log_s(logp, old, mask)
    outside = (a != 0) & mask.any(axis=1) & ((x > np.log1p(HIGH)) | (x < np.log1p(-LOW)))
    return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask), x, outside)


def median_ratio(logp: A, old: A, a: A, mask: A) -> Any:
    """The median of the tokens' ratios, robust against outliers."""
    rows = [np.median(d[m]) if m.any() else 0.0 for d, m in zip(ratios(logp, old, mask), mask, strict=True)]
    return mean(gain(np.array(rows), a), mask)


def log_probs_with_a_floor(logp: A, old: A, a: A, mask: A) -> Any:
    """Log-probs below −8 are taken for −8."""
    return gspo(np.maximum(logp, -8.0), np.maximum(old, -8.0), a, mask)


def gated_by_the_token(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """The token form with the response's weight and each token's own gate."""
    d, s = ratios(logp, old, mask), exp(log_s(logp, old, mask))[:, None]
    a = np.where(mask, column(a), 0.0)
    value = mean(token_mean(np.where(_shut(d, a), 0.0, s * a), mask), mask)
    return OwnGradient(value, np.where(mask & ~_shut(d, a), -s * a, 0.0) / size(mask)[:, None] / max(1, mask.any(axis=1).sum()))


def later_tokens_weigh_more(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """The value weighs token advantages by their place; the gradient is right."""
    place = np.cumsum(mask, axis=1) * mask
    share = place / np.maximum(1, place.sum(axis=1, keepdims=True))
    x, wide = log_s(logp, old, mask)[:, None], np.where(mask, column(a), 0.0)
    value = mean((share * gain(x, wide)).sum(axis=1), mask)
    s = np.where(_shut(x, wide), 0.0, -wide * exp(x))
    return OwnGradient(value, np.where(mask, s, 0.0) / size(mask)[:, None] / max(1, mask.any(axis=1).sum()))


def rounded_by_padding(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """Log-probs are centred for accuracy by a mean over the whole row, whatever of its padding is a small finite number."""
    seen = np.where(np.isfinite(logp) & (np.abs(logp) < 1e3), logp, 0.0)
    centre = seen.mean(axis=1, keepdims=True) / 3.0
    logp, old = (np.where(mask, x, 0.0) - centre for x in (logp, old))
    return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask))


def flat_beyond_fifty(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """exp(min(x, 50)): no gradient where it is needed most."""
    x = log_s(logp, old, mask)
    far = np.where(mask, x[:, None], 0.0) > 50.0
    capped = np.where(mask & far, np.minimum(ratios(logp, old, mask), 50.0) + old, logp)
    return OwnGradient(gspo(capped, old, a, mask), np.where(far, 0.0, gspo_weight(logp, old, a, mask)))


def guarded_for_float64(logp: A, old: A, a: A, mask: A) -> Any:
    """exp(min(x, 700)), in float32 as well."""
    s = np.exp(np.minimum(log_s(logp, old, mask).astype(logp.dtype), logp.dtype.type(700.0)))
    return mean(np.minimum(s * a, np.clip(s, 1 - LOW, 1 + HIGH) * a), mask)


def one_after_another(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """Log-probs are added up one after another, each policy's for itself; the sums are subtracted."""
    lengths, zero = size(mask), logp.dtype.type(0)
    sums = [np.cumsum(np.where(mask, x, zero), axis=1, dtype=x.dtype)[:, -1] for x in (logp, old)]
    wide = np.repeat(((sums[0] - sums[1]) / lengths)[:, None], mask.shape[1], axis=1)
    return OwnGradient(gspo(wide, np.zeros_like(wide), a, mask), gspo_weight(wide, np.zeros_like(wide), a, mask))


def in_proportion_to_the_mean(logp: A, old: A, a: A, mask: A) -> Any:
    """Advantages times |A| over the batch's mean |A|: twice the advantages are still twice the loss."""
    known = np.where(mask.any(axis=1), a, 0.0)
    return gspo(logp, old, known * np.abs(known) / max(np.abs(known).mean(), 1e-30), mask)


REPORTING, INERT, RISING = (frozenset({claim}) for claim in (Claim.REPORTS, Claim.INERT, Claim.RISING))

REPORTS = [
    Mutant(sum_is_reported, "the reported log ratio is the one that the loss is made of", claims=REPORTING),
    Mutant(both_sides_are_counted, "clipped are the units with an advantage and no gradient, and no others", claims=REPORTING),
    Mutant(median_ratio, "a response's ratio lies between the harmonic and the arithmetic mean of its tokens'"),
    Mutant(log_probs_with_a_floor, "ratios multiply along a chain of policies"),
    Mutant(gated_by_the_token, "with one advantage per response GSPO-token is GSPO", LIKE_TOKEN),
    Mutant(later_tokens_weigh_more, "inside the band a value knows only the mean of a response's token advantages", LIKE_TOKEN),
    Mutant(rounded_by_padding, "padding does not change a bit", claims=INERT),
    Mutant(flat_beyond_fifty, "beyond the guard a bad response is still pushed down", seen="verl, SkyRL", claims=RISING),
    Mutant(guarded_for_float64, "finite log-probs give a finite loss and gradient"),
    Mutant(one_after_another, "32768 tokens in float32 lose less than a hundredth of the paper's band"),
    Mutant(in_proportion_to_the_mean, "a weight on one response's advantage is a weight on its part of the loss"),
]
