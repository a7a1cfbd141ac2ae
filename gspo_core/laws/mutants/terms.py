"""Mutants of what stands beside an objective: a KL term and a sampler correction."""

from __future__ import annotations

from typing import Any

import numpy as np

from gspo_core.objectives.presets import DAPO

from .mutant import WITH_KL, WITH_SAMPLER, A, Mutant, exp, gain, gspo, log_s, mean, ratios, size, token_mean

SIDE = "the KL term pulls up rare tokens at least as hard as it pulls down frequent ones"
WEIGHS = "the KL term weighs responses as the loss does"
PULLS = "the KL term pulls the policy to the reference"
FOLLOWS = "the correction follows the sampler"
WHOLE = "a response's correction is a function of its whole ratio, or each token has its own"
REFERENCE_PADDING = "padding of the reference's log-probs does not change the loss"
SAMPLER_PADDING = "padding of the sampler's log-probs does not change the loss"


def _with(penalty: A, logp: A, old: A, a: A, mask: A) -> Any:
    """GSPO + 0.1 of the mean of a penalty per token, of each response and then of all."""
    return gspo(logp, old, a, mask) - mean(0.1 * token_mean(penalty, mask), mask)


def kl_turned_over(logp: A, old: A, a: A, mask: A, ref_logp: A) -> Any:
    """k3 with policy and reference exchanged."""
    x = ratios(logp, ref_logp, mask)
    return _with(np.expm1(x) - x, logp, old, a, mask)


def kl_ignored(logp: A, old: A, a: A, mask: A, ref_logp: A) -> Any:
    """Takes the reference, and does nothing with it."""
    return gspo(logp, old, a, mask)


def kl_over_the_width(logp: A, old: A, a: A, mask: A, ref_logp: A) -> Any:
    """k3 as a mean over the padded slots."""
    x = ratios(ref_logp, logp, mask)
    return gspo(logp, old, a, mask) - mean(0.1 * (np.expm1(x) - x).mean(axis=1), mask)


def kl_summed(logp: A, old: A, a: A, mask: A, ref_logp: A) -> Any:
    """k3 of all tokens of the batch, not divided by anything."""
    x = ratios(ref_logp, logp, mask)
    return gspo(logp, old, a, mask) + 0.1 * (np.expm1(x) - x).sum()


def kl_of_the_first_estimator(logp: A, old: A, a: A, mask: A, ref_logp: A) -> Any:
    """k1, whose gradient is 1 whatever the reference is."""
    return _with(ratios(logp, ref_logp, mask), logp, old, a, mask)


def kl_not_masked(logp: A, old: A, a: A, mask: A, ref_logp: A) -> Any:
    """x²/2 of all slots, divided by the right length."""
    x = ref_logp - np.where(mask, logp, 0.0)
    return gspo(logp, old, a, mask) - mean(0.1 * (0.5 * x * x).sum(axis=1) / size(mask), mask)


def dapo_kl_of_responses(logp: A, old: A, a: A, mask: A, ref_logp: A) -> Any:
    """A mean over tokens for the policy, and over responses for the KL term."""
    x, total = ratios(ref_logp, logp, mask), max(1, mask.sum())
    policy = -np.where(mask, gain(ratios(logp, old, mask), a[:, None], 0.2, 0.28), 0.0).sum() / total
    return policy - mean(0.1 * token_mean(np.expm1(x) - x, mask), mask)


def correction_by_the_mean_ratio(logp: A, old: A, a: A, mask: A, sampler_logp: A) -> Any:
    """The arithmetic mean of the token ratios π_old/π_sampler as the weight of a response."""
    return gspo(logp, old, a * token_mean(exp(ratios(old, sampler_logp, mask)), mask), mask)


def correction_by_the_largest_ratio(logp: A, old: A, a: A, mask: A, sampler_logp: A) -> Any:
    """The largest token ratio as the weight of a response."""
    far = np.where(mask, ratios(old, sampler_logp, mask), -np.inf).max(axis=1)
    return gspo(logp, old, a * exp(np.where(mask.any(axis=1), far, 0.0)), mask)


def correction_by_the_distance(logp: A, old: A, a: A, mask: A, sampler_logp: A) -> Any:
    """exp|log π_old − log π_sampler|: a sampler that is off in either direction weighs more."""
    return gspo(logp, old, a * exp(np.abs(log_s(old, sampler_logp, mask))), mask)


def correction_falls(logp: A, old: A, a: A, mask: A, sampler_logp: A) -> Any:
    """1 − log(π_old/π_sampler)."""
    return gspo(logp, old, a * np.maximum(0.0, 1.0 - log_s(old, sampler_logp, mask)), mask)


def correction_not_masked(logp: A, old: A, a: A, mask: A, sampler_logp: A) -> Any:
    """The gap of all slots, divided by the right length."""
    return gspo(logp, old, a * exp((np.where(mask, old, 0.0) - sampler_logp).sum(axis=1) / size(mask)), mask)


TERMS = [
    Mutant(kl_turned_over, SIDE, names=WITH_KL, says="policy and reference are exchanged"),
    Mutant(kl_ignored, PULLS, names=WITH_KL, says="the reference is ignored"),
    Mutant(kl_of_the_first_estimator, PULLS, names=WITH_KL, says="log π − log π_ref (k1)"),
    Mutant(
        kl_over_the_width,
        WEIGHS,
        names=WITH_KL,
        says="in the KL term, a response's sum over tokens is divided by the padded width",
    ),
    Mutant(kl_summed, WEIGHS, names=WITH_KL, says="in the KL term, all tokens are summed"),
    Mutant(dapo_kl_of_responses, WEIGHS, DAPO, names=WITH_KL, says="in the KL term, every response has the same weight"),
    Mutant(kl_not_masked, REFERENCE_PADDING, names=WITH_KL, says="padding of the reference's log-probs enters"),
    Mutant(correction_by_the_mean_ratio, WHOLE, names=WITH_SAMPLER, says="the arithmetic mean of its token ratios"),
    Mutant(correction_by_the_largest_ratio, WHOLE, names=WITH_SAMPLER, says="the largest of its token ratios"),
    Mutant(correction_falls, FOLLOWS, names=WITH_SAMPLER, says="the weight falls where"),
    Mutant(correction_by_the_distance, FOLLOWS, names=WITH_SAMPLER, says="grows with the distance"),
    Mutant(correction_not_masked, SAMPLER_PADDING, names=WITH_SAMPLER, says="padding of the sampler's log-probs enters"),
]
