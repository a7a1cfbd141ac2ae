"""Mutants of the clip: its sides, its bounds and its guard against overflow."""

from __future__ import annotations

from typing import Any

import numpy as np

from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.packing import OwnGradient

from .mutant import HIGH, LIKE_DUAL, LOW, WITH_DENOMINATOR, A, Mutant, exp, gain, gspo, gspo_weight, log_s, mean, right

SILENT = "a clipped unit has no gradient"
LIVE = "an unclipped unit has a gradient, however far its ratio is from 1"
BAND = "the clip range reaches from 1 − ε_low to 1 + ε_high"
FLAT = "beyond the clip range the loss stays at the value of the bound"
FINITE = "finite log-probs give a finite loss and gradient"
GUARD = "no overflow guard changes ratios below e⁵⁰"


def not_clipped(logp: A, old: A, a: A, mask: A) -> Any:
    """s A."""
    return mean(exp(log_s(logp, old, mask)) * a, mask)


def maximum_for_minimum(logp: A, old: A, a: A, mask: A) -> Any:
    """max(s A, clip(s) A)."""
    s = exp(log_s(logp, old, mask))
    return mean(np.maximum(s * a, np.clip(s, 1 - LOW, 1 + HIGH) * a), mask)


def mirrored_for_negative(logp: A, old: A, a: A, mask: A) -> Any:
    """The maximum for A < 0, to be "pessimistic"."""
    s = exp(log_s(logp, old, mask))
    both = s * a, np.clip(s, 1 - LOW, 1 + HIGH) * a
    return mean(np.where(a >= 0, np.minimum(*both), np.maximum(*both)), mask)


def clipped_on_both_sides(logp: A, old: A, a: A, mask: A) -> Any:
    """clip(s) A without the minimum."""
    return mean(np.clip(exp(log_s(logp, old, mask)), 1 - LOW, 1 + HIGH) * a, mask)


def widths_swapped(logp: A, old: A, a: A, mask: A) -> Any:
    """1 − ε_high to 1 + ε_low."""
    return mean(gain(log_s(logp, old, mask), a, HIGH, LOW), mask)


def lower_width_on_both_sides(logp: A, old: A, a: A, mask: A) -> Any:
    """ε_high is not used."""
    return mean(gain(log_s(logp, old, mask), a, LOW, LOW), mask)


def band_in_nats(logp: A, old: A, a: A, mask: A) -> Any:
    """log s clipped to (−ε_low, ε_high)."""
    x = log_s(logp, old, mask)
    return mean(np.minimum(exp(x) * a, exp(np.clip(x, -LOW, HIGH)) * a), mask)


def only_good_are_clipped(logp: A, old: A, a: A, mask: A) -> Any:
    """Without the lower bound."""
    s = exp(log_s(logp, old, mask))
    return mean(np.minimum(s * a, np.minimum(s, 1 + HIGH) * a), mask)


def clipped_are_dropped(logp: A, old: A, a: A, mask: A) -> Any:
    """Units outside the clip range have loss 0 instead of a constant."""
    x = log_s(logp, old, mask)
    shut = ((a > 0) & (x > np.log1p(HIGH))) | ((a < 0) & (x < np.log1p(-LOW)))
    return mean(np.where(shut, 0.0, gain(x, a)), mask)


def ratio_capped_at_e10(logp: A, old: A, a: A, mask: A) -> Any:
    """log s clamped at 10, with no gradient beyond."""
    return mean(gain(np.minimum(log_s(logp, old, mask), 10.0), a), mask)


def overflows(logp: A, old: A, a: A, mask: A) -> Any:
    """exp without a guard."""
    s = np.exp(log_s(logp, old, mask))
    return mean(np.minimum(s * a, np.clip(s, 1 - LOW, 1 + HIGH) * a), mask)


def overflows_where_clipped(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """A finite value, and a gradient of 0 · ∞, as autodiff of exp, min and clip gives."""
    s = np.exp(log_s(logp, old, mask))
    shut = ((a > 0) & (s > 1 + HIGH)) | ((a < 0) & (s < 1 - LOW))
    unit = -np.where(shut, 0.0, a) * s / mask.sum(axis=1).clip(1) / max(1, mask.any(axis=1).sum())
    return OwnGradient(gspo(logp, old, a, mask), np.where(mask, unit[:, None], 0.0))


def straight_through(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """The value is clipped, the gradient is not."""
    full = np.where(mask, -a[:, None] * exp(log_s(logp, old, mask))[:, None], 0.0)
    weight = full / mask.sum(axis=1, keepdims=True).clip(1) / max(1, mask.any(axis=1).sum())
    return OwnGradient(gspo(logp, old, a, mask), weight)


def old_is_new(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """old := new.detach() although old log-probs were given: every ratio is 1, nothing is ever clipped."""
    return right(logp, logp, a, mask)


def edge_is_shut(logp: A, old: A, a: A, mask: A, denominator: float | None = None) -> OwnGradient:
    """Bounds excluded from the clip range."""
    x, n = log_s(logp, old, mask), max(1, mask.any(axis=1).sum())
    edge = ((a > 0) & (x == np.log1p(HIGH))) | ((a < 0) & (x == np.log1p(-LOW)))
    weight = np.where(edge[:, None], 0.0, gspo_weight(logp, old, a, mask))
    return OwnGradient(gspo(logp, old, a, mask, denominator), weight * n / (denominator or n))


def edge_is_three_quarters(logp: A, old: A, a: A, mask: A, denominator: float | None = None) -> OwnGradient:
    """The gradient that JAX gives for minimum and clip at the bound."""
    x, n = log_s(logp, old, mask), max(1, mask.any(axis=1).sum())
    edge = ((a > 0) & (x == np.log1p(HIGH))) | ((a < 0) & (x == np.log1p(-LOW)))
    weight = np.where(edge[:, None], 0.75, 1.0) * gspo_weight(logp, old, a, mask)
    return OwnGradient(gspo(logp, old, a, mask, denominator), weight * n / (denominator or n))


def clipped_token_by_token(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """The ratio of the response, and a clip decision per token."""
    d = np.where(mask, logp, 0.0) - np.where(mask, old, 0.0)
    shut = ((a[:, None] > 0) & (d > np.log1p(HIGH))) | ((a[:, None] < 0) & (d < np.log1p(-LOW)))
    return OwnGradient(gspo(logp, old, a, mask), np.where(shut, 0.0, gspo_weight(logp, old, a, mask)))


def ceiling_ignored(logp: A, old: A, a: A, mask: A) -> Any:
    """A dual clip that is configured and not used."""
    return gspo(logp, old, a, mask)


def advantage_zero_is_nan(logp: A, old: A, a: A, mask: A) -> Any:
    """The sign computed as A/|A|."""
    with np.errstate(all="ignore"):
        return mean(np.abs(a) * gain(log_s(logp, old, mask), a / np.abs(a)), mask)


ON_BOUND = "exactly on a bound a unit has a gradient"
EDGES = frozenset({Claim.EDGES})
CLIP = [
    Mutant(not_clipped, SILENT, says="nothing is clipped"),
    Mutant(maximum_for_minimum, "clipping never raises the objective", says="the maximum in place of the minimum"),
    Mutant(mirrored_for_negative, LIVE, seen="EasyDeL", says="mirrored for A < 0"),
    Mutant(clipped_on_both_sides, LIVE, seen="textpolicy", says="both sides for both signs"),
    Mutant(widths_swapped, BAND, says="bounds of the clip range are swapped"),
    Mutant(
        lower_width_on_both_sides,
        BAND,
        seen="Tunix, epsilon_high of GRPOConfig",
        says="1 − 0.2 to 1 + 0.2, not 1 − 0.2 to 1 + 0.3",
    ),
    Mutant(band_in_nats, FLAT, says="in nats"),
    Mutant(only_good_are_clipped, SILENT, says="only good responses are clipped"),
    Mutant(clipped_are_dropped, FLAT, says="have loss 0"),
    Mutant(ratio_capped_at_e10, GUARD, seen="verl, SkyRL", says="large ratios are capped"),
    Mutant(overflows, FINITE, seen="OpenRLHF#1293", says="exp overflows"),
    Mutant(overflows_where_clipped, FINITE, seen="trl#3248 and most others", says="exp overflows"),
    Mutant(straight_through, SILENT, says="as if it were not clipped"),
    Mutant(old_is_new, SILENT, seen="tinker-cloud#66", says="the old policy is ignored"),
    Mutant(edge_is_shut, ON_BOUND, claims=EDGES, names=WITH_DENOMINATOR, says="on a bound of the clip the gradient is 0:"),
    Mutant(edge_is_three_quarters, ON_BOUND, claims=EDGES, names=WITH_DENOMINATOR, says="the gradient is 0.75 times that"),
    Mutant(
        clipped_token_by_token,
        "all tokens of a response are clipped together",
        seen="Soup#744",
        says="the gradient is clipped token by token",
    ),
    Mutant(
        ceiling_ignored,
        "with a negative advantage the loss is at most the cap of the dual clip",
        LIKE_DUAL,
        seen="verl, SkyRL: clip_ratio_c",
        says="the ceiling of the dual clip is missing",
    ),
    Mutant(
        advantage_zero_is_nan,
        "with advantage 0 the loss and its gradient are 0",
        says="with an advantage of 0 the loss is NaN",
    ),
]
