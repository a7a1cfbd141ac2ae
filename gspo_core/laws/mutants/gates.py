"""Mutants of gates and of surrogates other than the clip: a bound on another statistic, at another place, or on one side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gspo_core.objectives.loss import Objective
from gspo_core.objectives.presets import ASPO, CISPO, DEEPSEEK_V3_2, DPPO, FSPO, GMPO, GRPO, SAPO

from .mutant import A, Mutant, exp, gain, log_s, mean, ratios, size, token_mean

VALUE = "the value is the paper's"


def _masked(logp: A, old: A, a: A, mask: A, stale: Callable[[A], A]) -> Any:
    """GRPO with ε = 0.2 without the bad responses that `stale` says, a function of the token log ratios."""
    d = ratios(logp, old, mask)
    gains = token_mean(gain(d, a[:, None], 0.2, 0.2), mask)
    return mean(np.where((a < 0) & stale(d), 0.0, gains), mask)


def off_policy_by_the_sum(logp: A, old: A, a: A, mask: A) -> Any:
    """−Σ d > δ in place of the mean."""
    return _masked(logp, old, a, mask, lambda d: d.sum(axis=1) < -0.5)


def off_policy_by_the_token(logp: A, old: A, a: A, mask: A) -> Any:
    """Any token with −d > δ."""
    return _masked(logp, old, a, mask, lambda d: (d < -0.5).any(axis=1))


def off_policy_from_04(logp: A, old: A, a: A, mask: A) -> Any:
    """δ = 0.4 in place of 0.5."""
    return _masked(logp, old, a, mask, lambda d: d.sum(axis=1) / size(mask) < -0.4)


def off_policy_on_both_sides(logp: A, old: A, a: A, mask: A) -> Any:
    """|mean d| > δ."""
    return _masked(logp, old, a, mask, lambda d: np.abs(d.sum(axis=1)) / size(mask) > 0.5)


def off_policy_ignored(logp: A, old: A, a: A, mask: A) -> Any:
    """No mask."""
    return _masked(logp, old, a, mask, lambda d: np.zeros(len(d), dtype=bool))


def off_policy_of_the_good(logp: A, old: A, a: A, mask: A) -> Any:
    """The mask for A > 0."""
    d = ratios(logp, old, mask)
    stale = (a > 0) & (d.sum(axis=1) / size(mask) < -0.5)
    return mean(np.where(stale, 0.0, token_mean(gain(d, a[:, None], 0.2, 0.2), mask)), mask)


def masked_are_not_counted(logp: A, old: A, a: A, mask: A) -> Any:
    """A masked response leaves the denominator, too."""
    stale = (a < 0) & (log_s(logp, old, mask) < -0.5)
    kept = mask & ~stale[:, None]
    return mean(token_mean(gain(ratios(logp, old, mask), a[:, None], 0.2, 0.2), mask), kept)


def _geometric(logp: A, old: A, a: A, mask: A, low: float, high: float) -> Any:
    """GMPO with bounds in nats, one-sided by the sign of A."""
    d, at = ratios(logp, old, mask), a[:, None]
    cut = np.where(at > 0, np.minimum(d, high), np.where(at < 0, np.maximum(d, -low), d))
    return mean(exp(cut.sum(axis=1) / size(mask)) * a, mask)


def gmpo_on_both_sides(logp: A, old: A, a: A, mask: A) -> Any:
    """Tokens clipped on both sides, whatever the sign of A."""
    d = np.clip(ratios(logp, old, mask), -0.4, 0.4)
    return mean(exp(np.where(mask, d, 0.0).sum(axis=1) / size(mask)) * a, mask)


def gmpo_band_as_a_ratio(logp: A, old: A, a: A, mask: A) -> Any:
    """1 ± 0.4 in place of e^±0.4."""
    return _geometric(logp, old, a, mask, -float(np.log1p(-0.4)), float(np.log1p(0.4)))


def gmpo_a_little_wider(logp: A, old: A, a: A, mask: A) -> Any:
    """Bounds 0.41."""
    return _geometric(logp, old, a, mask, 0.41, 0.41)


def fspo_without_the_root(logp: A, old: A, a: A, mask: A) -> Any:
    """A band of 0.03 whatever the length."""
    total = ratios(logp, old, mask).sum(axis=1)
    cut = np.where(a > 0, np.minimum(total, 0.03), np.where(a < 0, np.maximum(total, -0.03), total))
    return mean(exp(cut) * a, mask)


def fspo_of_the_mean(logp: A, old: A, a: A, mask: A) -> Any:
    """The ratio is a geometric mean, the band is that of the product."""
    n = size(mask)
    x, bound = ratios(logp, old, mask).sum(axis=1), 0.03 * np.sqrt(n)
    cut = np.where(a > 0, np.minimum(x, bound), np.where(a < 0, np.maximum(x, -bound), x))
    return mean(exp(cut / n) * a, mask)


def _over_tokens(gains: A, mask: A) -> Any:
    """−Σ/Σ|y|."""
    return -np.where(mask, gains, 0.0).sum() / max(1, mask.sum())


def cispo_capped_at_three(logp: A, old: A, a: A, mask: A) -> Any:
    """A cap of 3 in place of 5."""
    return _over_tokens(np.minimum(exp(ratios(logp, old, mask)), 3.0) * a[:, None], mask)


def cispo_for_good_only(logp: A, old: A, a: A, mask: A) -> Any:
    """The cap acts on A > 0 alone."""
    w, at = exp(ratios(logp, old, mask)), a[:, None]
    return _over_tokens(np.where(at > 0, np.minimum(w, 5.0), w) * at, mask)


def sapo_one_temperature(logp: A, old: A, a: A, mask: A) -> Any:
    """τ = 1 for both signs of A."""
    w = exp(ratios(logp, old, mask))
    return mean(token_mean(4.0 / (1.0 + np.exp(1.0 - w)) * a[:, None], mask), mask)


def sapo_without_the_four(logp: A, old: A, a: A, mask: A) -> Any:
    """σ(τ(w − 1)) without 4/τ."""
    tau = np.where(a < 0, 1.05, 1.0)[:, None]
    w = exp(ratios(logp, old, mask))
    return mean(token_mean(a[:, None] / (1.0 + np.exp(tau * (1.0 - w))), mask), mask)


def aspo_not_reciprocal(logp: A, old: A, a: A, mask: A) -> Any:
    """min(w, 3) for both signs of A, held at the bounds."""
    w, at = exp(ratios(logp, old, mask)), a[:, None]
    held = np.where(at > 0, np.minimum(w, 1.2), np.maximum(np.minimum(w, 3.0), 0.8))
    return _over_tokens(held * at, mask)


def _in_region(logp: A, old: A, a: A, mask: A, out: Callable[[A, A], A]) -> Any:
    """DPPO, with cap 20, without the tokens that `out` says, a function of π − π_old and of the advantages at tokens."""
    moved = np.where(mask, exp(np.where(mask, logp, 0.0)) - exp(np.where(mask, old, 0.0)), 0.0)
    at = np.where(mask, a[:, None], 0.0)
    gains = np.minimum(exp(ratios(logp, old, mask)), 20.0) * at
    return _over_tokens(np.where(out(moved, at), 0.0, gains), mask)


def dppo_on_either_side(logp: A, old: A, a: A, mask: A) -> Any:
    """|π − π_old| > 0.15, whatever the sign of A."""
    return _in_region(logp, old, a, mask, lambda moved, _: np.abs(moved) > 0.15)


def dppo_on_the_wrong_side(logp: A, old: A, a: A, mask: A) -> Any:
    """The tokens that come back are taken away."""
    return _in_region(logp, old, a, mask, lambda moved, at: ((moved > 0.15) & (at < 0)) | ((moved < -0.15) & (at > 0)))


def dppo_from_02(logp: A, old: A, a: A, mask: A) -> Any:
    """0.2 in place of 0.15."""
    return _in_region(logp, old, a, mask, lambda moved, at: ((moved > 0.2) & (at > 0)) | ((moved < -0.2) & (at < 0)))


def dppo_by_the_ratio(logp: A, old: A, a: A, mask: A) -> Any:
    """|π/π_old − 1| > 0.15 in place of |π − π_old|."""
    w, at = exp(ratios(logp, old, mask)), a[:, None]
    out = ((w > 1.15) & (at > 0)) | ((w < 0.85) & (at < 0))
    return _over_tokens(np.where(out, 0.0, np.minimum(w, 20.0) * at), mask)


def grpo_on_the_log_ratio(logp: A, old: A, a: A, mask: A) -> Any:
    """1 + d in place of e^d."""
    r, at = 1.0 + ratios(logp, old, mask), a[:, None]
    return mean(token_mean(np.minimum(r * at, np.clip(r, 0.8, 1.2) * at), mask), mask)


SAYS: dict[Callable[..., Any], tuple[Objective, str]] = {
    off_policy_by_the_sum: (DEEPSEEK_V3_2, "looks at the sum"),
    off_policy_by_the_token: (DEEPSEEK_V3_2, "looks at single tokens"),
    off_policy_from_04: (DEEPSEEK_V3_2, "delta of the gate is 0.4, not 0.5"),
    off_policy_on_both_sides: (DEEPSEEK_V3_2, "looks at both sides"),
    off_policy_ignored: (DEEPSEEK_V3_2, "the gate is missing"),
    off_policy_of_the_good: (DEEPSEEK_V3_2, "acts on good responses"),
    masked_are_not_counted: (DEEPSEEK_V3_2, "leave the denominator"),
    gmpo_on_both_sides: (GMPO, "clipped on both sides"),
    gmpo_band_as_a_ratio: (GMPO, "applied to the ratio, 1 ± b"),
    gmpo_a_little_wider: (GMPO, "low and high of the gate are 0.41, not 0.4"),
    fspo_without_the_root: (FSPO, "length power of the gate is 0, not 0.5"),
    fspo_of_the_mean: (FSPO, "exp of the mean of its log ratios, as in GSPO"),
    cispo_capped_at_three: (CISPO, "cap of the surrogate is 3, not 5"),
    cispo_for_good_only: (CISPO, "TruncatedWeight acts on good responses only"),
    sapo_one_temperature: (SAPO, "tau neg of the surrogate is 1, not 1.05"),
    sapo_without_the_four: (SAPO, "good responses weigh 0.25 times what the formula gives, and bad ones 0.2625 times"),
    aspo_not_reciprocal: (ASPO, "the loss of single tokens is another one for good responses"),
    dppo_on_either_side: (DPPO, "taken away whatever its advantage"),
    dppo_on_the_wrong_side: (DPPO, "pushes it back"),
    dppo_from_02: (DPPO, "low and high of the gate are 0.2, not 0.15"),
    dppo_by_the_ratio: (DPPO, "compares the ratio"),
    grpo_on_the_log_ratio: (GRPO, "the ratio is 1 + log(π/π_old)"),
}
GATES = [Mutant(loss, VALUE, like, says=words) for loss, (like, words) in SAYS.items()]
