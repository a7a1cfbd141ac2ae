"""Mutants of several kinds: mistakes that trainers are likely to make, and that once had no sentence of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from gspo_core.laws.kit.packing import OwnGradient
from gspo_core.objectives.presets import CISPO, SAPO

from .mutant import (
    HIGH,
    LOW,
    WITH_KL,
    WITH_SAMPLER,
    A,
    Mutant,
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

VALUE, WEIGHT = "the value is the paper's", "the gradient is the paper's"
SUM, EQUAL = "only the sum of a response's log ratios matters", "a response of equal tokens has the ratio of one of them"
OTHERS = "a response does not change the gradients of the others"
NEAR, CLIP = (
    "near the old policy the correction is π_old/π_sampler, for good and bad responses alike",
    "the correction moves no clip bound",
)
BAND = "the clip range reaches from 1 − ε_low to 1 + ε_high"
WHOLE = "a response's correction is a function of its whole ratio, or each token has its own"
FOLLOWS = "the correction follows the sampler"
POSITION = "the positions of a response's tokens do not matter"
NOT_COUNTED = "the first token of every response is dropped, and still counted in its length"


def _ends(mask: A, last: bool) -> A:
    """The first or the last token of every response."""
    return mask & (np.cumsum(mask, axis=1) == (mask.sum(axis=1, keepdims=True) if last else 1))


def length_without_the_eos(logp: A, old: A, a: A, mask: A) -> Any:
    """|y| − 1."""
    return mean(gain(ratios(logp, old, mask).sum(axis=1) / np.maximum(size(mask) - 1, 1), a), mask)


def eos_dropped(logp: A, old: A, a: A, mask: A) -> Any:
    """The last token of every response is masked, as by a shift of labels."""
    return gspo(logp, old, a, mask & ~(_ends(mask, True) & (mask.sum(axis=1, keepdims=True) > 1)))


def first_token_dropped(logp: A, old: A, a: A, mask: A) -> Any:
    """The first token of every response has log ratio 0, and counts."""
    d = np.where(_ends(mask, False), 0.0, ratios(logp, old, mask))
    return mean(gain(d.sum(axis=1) / size(mask), a), mask)


def mask_taken_for_a_prefix(logp: A, old: A, a: A, mask: A) -> Any:
    """The first |y| slots of every row."""
    return gspo(logp, old, a, np.arange(mask.shape[1]) < mask.sum(axis=1, keepdims=True))


def only_the_last_token_learns(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """All other tokens are detached."""
    return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask) * _ends(mask, True))


def gradient_without_the_count(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """A closed form without 1/N."""
    return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask) * max(1, mask.any(axis=1).sum()))


def advantages_divided_by_their_deviation(logp: A, old: A, a: A, mask: A) -> Any:
    """A/(σ + 1e-6), if there is a σ."""
    own = a[mask.any(axis=1)]
    return gspo(logp, old, a / (own.std() + 1e-6) if own.size > 1 and np.ptp(own) else a, mask)


def no_signal_is_skipped(logp: A, old: A, a: A, mask: A) -> Any:
    """Loss 0 if all advantages are equal."""
    own = a[mask.any(axis=1)]
    return 0.0 if own.size > 1 and not np.ptp(own) else gspo(logp, old, a, mask)


def bad_responses_weigh_half(logp: A, old: A, a: A, mask: A) -> Any:
    """A/2 for A < 0."""
    return gspo(logp, old, np.where(a < 0, 0.5 * a, a), mask)


def zero_advantages_are_not_counted(logp: A, old: A, a: A, mask: A) -> Any:
    """A mean over the responses with an advantage."""
    return gspo(logp, old, a, mask, max(1, (mask.any(axis=1) & (a != 0)).sum()))


def mean_of_two_means(logp: A, old: A, a: A, mask: A) -> Any:
    """Every second row is on another rank, and each rank takes a mean of its own."""
    ranks = [r for r in (slice(0, None, 2), slice(1, None, 2)) if mask[r].any()]
    return np.mean([gspo(logp[r], old[r], a[r], mask[r]) for r in ranks]) if ranks else 0.0


def single_response_by_tokens(logp: A, old: A, a: A, mask: A) -> Any:
    """The ratios of a batch of one response are those of its tokens."""
    if len(mask) > 1:
        return gspo(logp, old, a, mask)
    return mean(token_mean(gain(ratios(logp, old, mask), a[:, None]), mask), mask)


def tokens_for_the_bad(logp: A, old: A, a: A, mask: A) -> Any:
    """Bad responses are clipped token by token."""
    tokens = token_mean(gain(ratios(logp, old, mask), a[:, None]), mask)
    return mean(np.where(a < 0, tokens, gain(log_s(logp, old, mask), a)), mask)


COUNTER = [0]


def warms_up(logp: A, old: A, a: A, mask: A) -> Any:
    """The loss grows over its first thousands of calls."""
    COUNTER[0] += 1
    return gspo(logp, old, a, mask) * (1.0 - 0.5 ** (1.0 + 1e-4 * COUNTER[0]))


def first_order_ratio(logp: A, old: A, a: A, mask: A) -> Any:
    """1 + log s."""
    s = 1.0 + log_s(logp, old, mask)
    return mean(np.minimum(s * a, np.clip(s, 1 - LOW, 1 + HIGH) * a), mask)


def a_thousandth_more(logp: A, old: A, a: A, mask: A) -> Any:
    """s + 0.001."""
    s = exp(log_s(logp, old, mask)) + 1e-3
    return mean(np.minimum(s * a, np.clip(s, 1 - LOW, 1 + HIGH) * a), mask)


def log_ratio_clamped(logp: A, old: A, a: A, mask: A) -> Any:
    """Log ratios of responses within ±0.5."""
    return mean(gain(np.clip(log_s(logp, old, mask), -0.5, 0.5), a), mask)


def certain_tokens_are_masked(logp: A, old: A, a: A, mask: A) -> Any:
    """Tokens with π above 0.95 are left out of the sum."""
    d = np.where(logp > np.log(0.95), 0.0, ratios(logp, old, mask))
    return mean(gain(d.sum(axis=1) / size(mask), a), mask)


def log_probs_in_bfloat16(logp: A, old: A, a: A, mask: A) -> Any:
    """Log-probs with eight binary digits."""

    def rounded(x: A) -> A:
        bits = x.astype(np.float32).view(np.uint32) + np.uint32(0x8000) & np.uint32(0xFFFF0000)
        return bits.view(np.float32).astype(np.float64)

    return gspo(rounded(np.where(mask, logp, 0.0)), rounded(np.where(mask, old, 0.0)), a, mask)


def sapo_temperatures_exchanged(logp: A, old: A, a: A, mask: A) -> Any:
    """τ = 1.05 for good responses and 1 for bad ones."""
    tau = np.where(a > 0, 1.05, 1.0)[:, None]
    gate = 4.0 / tau / (1.0 + np.exp(-tau * (exp(ratios(logp, old, mask)) - 1.0)))
    return mean(token_mean(gate * a[:, None], mask), mask)


def cispo_drops_what_it_should_cap(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """Weight 0 above the cap."""
    r = exp(ratios(logp, old, mask))
    weight = np.where(mask, -np.where(r > 5.0, 0.0, r) * a[:, None], 0.0) / max(1, mask.sum())
    return OwnGradient(weight.sum(), weight)


def correction_squared(logp: A, old: A, a: A, mask: A, sampler_logp: A) -> Any:
    """(π_old/π_sampler)²."""
    return gspo(logp, old, a * exp(2 * log_s(old, sampler_logp, mask)), mask)


def correction_of_the_good(logp: A, old: A, a: A, mask: A, sampler_logp: A) -> Any:
    """Bad responses keep the weight 1."""
    return gspo(logp, old, a * np.where(a > 0, exp(log_s(old, sampler_logp, mask)), 1.0), mask)


def correction_inside_the_clip(logp: A, old: A, a: A, mask: A, sampler_logp: A) -> Any:
    """The sampler's log-probs in place of the old ones."""
    return gspo(logp, sampler_logp, a, mask)


def correction_over_its_mean(logp: A, old: A, a: A, mask: A, sampler_logp: A) -> Any:
    """Weights that are divided by their mean over the batch."""
    w, own = exp(log_s(old, sampler_logp, mask)), mask.any(axis=1)
    return gspo(logp, old, a * w / (w[own].mean() if own.any() else 1.0), mask)


def kl_capped(logp: A, old: A, a: A, mask: A, ref_logp: A) -> Any:
    """k3 of at most 0.02 per token."""
    x = ratios(ref_logp, logp, mask)
    return gspo(logp, old, a, mask) - mean(0.1 * token_mean(np.minimum(np.expm1(x) - x, 0.02), mask), mask)


def clipped_around_the_mean(logp: A, old: A, a: A, mask: A) -> Any:
    """The clip range lies around the mean ratio of the batch."""
    s, own = exp(log_s(logp, old, mask)), mask.any(axis=1)
    m = s[own].mean() if own.any() else 1.0
    return mean(np.minimum(s * a, np.clip(s, m - LOW, m + HIGH) * a), mask)


def tighter_for_long_ones(logp: A, old: A, a: A, mask: A) -> Any:
    """ε/√|y|."""
    s, root = exp(log_s(logp, old, mask)), np.sqrt(size(mask))
    return mean(np.minimum(s * a, np.clip(s, 1 - LOW / root, 1 + HIGH / root) * a), mask)


def far_tokens_are_masked(logp: A, old: A, a: A, mask: A) -> Any:
    """Tokens with |log(π/π_old)| above 0.4 leave the response."""
    return gspo(logp, old, a, mask & (np.abs(ratios(logp, old, mask)) <= 0.4))


def weak_advantages_are_ignored(logp: A, old: A, a: A, mask: A) -> Any:
    """|A| below 0.7 counts as 0."""
    return gspo(logp, old, np.where(np.abs(a) < 0.7, 0.0, a), mask)


def correction_of_each_token(logp: A, old: A, a: A, mask: A, sampler_logp: A) -> Any:
    """min(π_old/π_sampler, 2) at each token of a response that has one ratio: TRL's token_truncate at sequence level."""
    weight = np.minimum(exp(ratios(old, sampler_logp, mask)), 2.0)
    return mean(token_mean(gain(log_s(logp, old, mask), a)[:, None] * weight, mask), mask)


STRANGERS = [
    Mutant(length_without_the_eos, EQUAL, says="|y| − 1"),
    Mutant(eos_dropped, SUM, says="the last token of every response is dropped"),
    Mutant(first_token_dropped, SUM, says=NOT_COUNTED),
    Mutant(
        mask_taken_for_a_prefix,
        POSITION,
        says="the mask is assumed to have no holes",
    ),
    Mutant(only_the_last_token_learns, WEIGHT, says="only the last token of a response has a gradient"),
    Mutant(gradient_without_the_count, "copying the batch does not change the loss", says="lacks the factor 1/N"),
    Mutant(advantages_divided_by_their_deviation, OTHERS, says="divided by the standard deviation"),
    Mutant(no_signal_is_skipped, "copying the batch does not change the loss", says="all equal has loss 0"),
    Mutant(
        bad_responses_weigh_half,
        "on policy the gradient is REINFORCE's",
        says="bad responses weigh 0.5 times",
    ),
    Mutant(zero_advantages_are_not_counted, OTHERS, says="advantage 0 are not counted"),
    Mutant(mean_of_two_means, "the order of the responses does not matter", says="in a batch of 5, 0.8333, 1.25"),
    Mutant(single_response_by_tokens, SUM, says="a response alone in its batch"),
    Mutant(tokens_for_the_bad, SUM, says="bad responses of several tokens have not"),
    Mutant(warms_up, "twice the advantage, twice the loss", says="two calls with the same batch"),
    Mutant(first_order_ratio, VALUE, says="1 + log(π/π_old)"),
    Mutant(a_thousandth_more, VALUE, says="0.001 is added to the ratio"),
    Mutant(log_ratio_clamped, VALUE, says="held between 0.606531 and 1.64872"),
    Mutant(certain_tokens_are_masked, VALUE, says="depends on log π itself"),
    Mutant(log_probs_in_bfloat16, VALUE, says="are rounded, as to bfloat16"),
    Mutant(sapo_temperatures_exchanged, VALUE, SAPO, says="tau pos and tau neg of the surrogate are exchanged"),
    Mutant(cispo_drops_what_it_should_cap, WEIGHT, CISPO, says="above the cap 5 are dropped"),
    Mutant(correction_squared, NEAR, names=WITH_SAMPLER, says="the correction is applied twice"),
    Mutant(correction_of_the_good, NEAR, names=WITH_SAMPLER, says="acts on good responses only"),
    Mutant(correction_inside_the_clip, CLIP, names=WITH_SAMPLER, says="the correction is inside the clip"),
    Mutant(
        correction_over_its_mean, "the correction follows the sampler", names=WITH_SAMPLER, says="normalised over the batch"
    ),
    Mutant(clipped_around_the_mean, OTHERS, says="the clip range lies around the mean ratio of the batch"),
    Mutant(tighter_for_long_ones, BAND, says="ε is divided by the square root of the length"),
    Mutant(far_tokens_are_masked, SUM, says="tokens whose ratio is above 1.49182 or below 0.67032 are masked"),
    Mutant(
        weak_advantages_are_ignored,
        "twice the advantage, twice the loss",
        says="advantages smaller than 0.7 in size count as 0",
    ),
    Mutant(
        correction_of_each_token,
        WHOLE,
        seen="TRL, token_truncate at sequence level",
        names=WITH_SAMPLER,
        says="the arithmetic mean of its token ratios, each held at 2 at most",
    ),
    Mutant(kl_capped, "the KL term pulls the policy to the reference", names=WITH_KL, says="the KL term is capped"),
]
