"""Mutants of reported fields, of ratios, of rounding, and of GSPO-token."""

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
    is_clipped,
    log_s,
    mean,
    not_so,
    ratios,
    size,
    token_mean,
)


def sum_is_reported(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """Reports log ρ, the sum, instead of log s, the mean."""
    x = log_s(logp, old, mask)
    total = ratios(logp, old, mask).sum(axis=1)
    return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask), total, is_clipped(x, a) & mask.any(axis=1))


def both_sides_are_counted(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """Reports units on both sides of the clip range as clipped, for either sign of A."""
    x = log_s(logp, old, mask)
    outside = (a != 0) & mask.any(axis=1) & ((x > np.log1p(HIGH)) | (x < np.log1p(-LOW)))
    return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask), x, outside)


def median_ratio(logp: A, old: A, a: A, mask: A) -> Any:
    """The median of the token ratios, robust against outliers."""
    rows = [np.median(d[m]) if m.any() else 0.0 for d, m in zip(ratios(logp, old, mask), mask, strict=True)]
    return mean(gain(np.array(rows), a), mask)


def log_probs_with_a_floor(logp: A, old: A, a: A, mask: A) -> Any:
    """Log-probs below −8 are raised to −8."""
    return gspo(np.maximum(logp, -8.0), np.maximum(old, -8.0), a, mask)


def gated_by_the_token(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """The token form with the ratio of the response and a clip decision per token."""
    d, s = ratios(logp, old, mask), exp(log_s(logp, old, mask))[:, None]
    a = np.where(mask, column(a), 0.0)
    value = mean(token_mean(np.where(is_clipped(d, a), 0.0, s * a), mask), mask)
    return OwnGradient(
        value, np.where(mask & ~is_clipped(d, a), -s * a, 0.0) / size(mask)[:, None] / max(1, mask.any(axis=1).sum())
    )


def later_tokens_weigh_more(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """The value weights token advantages by their position; the gradient is right."""
    place = np.cumsum(mask, axis=1) * mask
    share = place / np.maximum(1, place.sum(axis=1, keepdims=True))
    x, wide = log_s(logp, old, mask)[:, None], np.where(mask, column(a), 0.0)
    value = mean((share * gain(x, wide)).sum(axis=1), mask)
    s = np.where(is_clipped(x, wide), 0.0, -wide * exp(x))
    return OwnGradient(value, np.where(mask, s, 0.0) / size(mask)[:, None] / max(1, mask.any(axis=1).sum()))


def rounded_by_padding(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """Log-probs are centred for accuracy by a mean over the whole row, small finite numbers in padding included."""
    seen = np.where(np.isfinite(logp) & (np.abs(logp) < 1e3), logp, 0.0)
    centre = seen.mean(axis=1, keepdims=True) / 3.0
    logp, old = (np.where(mask, x, 0.0) - centre for x in (logp, old))
    return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask))


def flat_beyond_fifty(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """exp(min(x, 50)): no gradient beyond the guard."""
    x = log_s(logp, old, mask)
    far = np.where(mask, x[:, None], 0.0) > 50.0
    capped = np.where(mask & far, np.minimum(ratios(logp, old, mask), 50.0) + old, logp)
    return OwnGradient(gspo(capped, old, a, mask), np.where(far, 0.0, gspo_weight(logp, old, a, mask)))


def guarded_for_float64(logp: A, old: A, a: A, mask: A) -> Any:
    """exp(min(x, 700)), in float32 as well."""
    s = np.exp(np.minimum(log_s(logp, old, mask).astype(logp.dtype), logp.dtype.type(700.0)))
    return mean(np.minimum(s * a, np.clip(s, 1 - LOW, 1 + HIGH) * a), mask)


def one_after_another(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """The log-probs of each policy are summed one after another, and the sums are subtracted."""
    lengths, zero = size(mask), logp.dtype.type(0)
    sums = [np.cumsum(np.where(mask, x, zero), axis=1, dtype=x.dtype)[:, -1] for x in (logp, old)]
    wide = np.repeat(((sums[0] - sums[1]) / lengths)[:, None], mask.shape[1], axis=1)
    return OwnGradient(gspo(wide, np.zeros_like(wide), a, mask), gspo_weight(wide, np.zeros_like(wide), a, mask))


def in_proportion_to_the_mean(logp: A, old: A, a: A, mask: A) -> Any:
    """Advantages times |A| divided by the mean |A| of the batch: still proportional to the advantages."""
    known = np.where(mask.any(axis=1), a, 0.0)
    return gspo(logp, old, known * np.abs(known) / max(np.abs(known).mean(), 1e-30), mask)


REPORTED = "the reported log ratio is the one in the loss"
REPORTED_CLIPPED = "exactly the units with an advantage and no gradient are reported as clipped"
BITS = "the contents of padding do not change a single bit of the result"
REPORTING, INERT, RISING = (frozenset({claim}) for claim in (Claim.REPORTS, Claim.INERT, Claim.RISING))

REPORTS = [
    Mutant(sum_is_reported, REPORTED, claims=REPORTING, says=not_so(REPORTED)),
    Mutant(both_sides_are_counted, REPORTED_CLIPPED, claims=REPORTING, says=not_so(REPORTED_CLIPPED)),
    Mutant(
        median_ratio,
        "a response's ratio lies between the harmonic and the arithmetic mean of its token ratios",
        says="the median of its token ratios",
    ),
    Mutant(
        log_probs_with_a_floor,
        "ratios multiply along a chain of policies",
        says="tokens with log π below −8 have another loss",
    ),
    Mutant(
        gated_by_the_token,
        "with one advantage per response GSPO-token equals GSPO",
        LIKE_TOKEN,
        says="the clip decides token by token",
    ),
    Mutant(
        later_tokens_weigh_more,
        "inside the clip range the value depends only on the mean of a response's token advantages",
        LIKE_TOKEN,
        says="the value is another quantity",
    ),
    Mutant(rounded_by_padding, BITS, claims=INERT, says=not_so(BITS)),
    Mutant(
        flat_beyond_fifty,
        "beyond the overflow guard a bad response still has a gradient",
        seen="verl, SkyRL",
        claims=RISING,
        says="the loss is flat for bad responses that became far too likely",
    ),
    Mutant(guarded_for_float64, "finite log-probs give a finite loss and gradient", says="exp overflows"),
    Mutant(one_after_another, "float32 stays accurate over 32768 tokens", says="log-probs are summed one after another"),
    Mutant(
        in_proportion_to_the_mean,
        "a factor on one response's advantage is a factor on its part of the loss",
        says="each response alone has the right loss",
    ),
]
