"""Mutants that were once called by a law's name: parts of tokens, sizes of advantages, and ratios of another shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from gspo_core.laws.kit.packing import OwnGradient

from .mutant import A, Mutant, exp, gain, gspo, gspo_weight, log_s, mean, ratios, size

VALUE, WEIGHT = "the value is the paper's", "the gradient is the paper's"
SUM, TWICE = "only the sum of a response's log ratios matters", "twice the advantage, twice the loss"
OTHERS = "a response does not change the gradients of the others"
SIGN = "a good response is made likelier, a bad one less likely"
SILENT = "with advantage 0 the loss and its gradient are 0"


def divided_by_a_temperature(logp: A, old: A, a: A, mask: A) -> Any:
    """Log ratios divided by 0.7."""
    return mean(gain(log_s(logp, old, mask) / 0.7, a), mask)


def later_tokens_fade(logp: A, old: A, a: A, mask: A) -> Any:
    """Parts of 0.9^t in the mean."""
    part = np.where(mask, 0.9 ** np.cumsum(mask, axis=1), 0.0)
    x = (part * ratios(logp, old, mask)).sum(axis=1) / np.maximum(part.sum(axis=1), 1e-300)
    return mean(gain(x, a), mask)


def rarest_token_dropped(logp: A, old: A, a: A, mask: A) -> Any:
    """The token with the lowest π leaves the response."""
    rarest = np.argmin(np.where(mask, logp, np.inf), axis=1)[:, None] == np.arange(mask.shape[1])
    return gspo(logp, old, a, mask & ~(rarest & (mask.sum(axis=1) > 1)[:, None]))


def less_the_others(logp: A, old: A, a: A, mask: A) -> Any:
    """The mean of the advantages of the other responses is subtracted."""
    own = mask.any(axis=1)
    total, others = np.where(own, a, 0.0).sum(), own.sum() - 1
    return gspo(logp, old, np.where(own, a - (total - a) / others, 0.0) if others > 0 else a, mask)


def ratios_over_their_mean(logp: A, old: A, a: A, mask: A) -> Any:
    """Self-normalised: s_i divided by the mean of s."""
    x, own = log_s(logp, old, mask), mask.any(axis=1)
    return mean(gain(x - np.log(exp(x)[own].mean() if own.any() else 1.0), a), mask)


def squashed_advantages(logp: A, old: A, a: A, mask: A) -> Any:
    """tanh A."""
    return gspo(logp, old, np.tanh(a), mask)


def away_in_either_direction(logp: A, old: A, a: A, mask: A) -> Any:
    """exp|log s|."""
    return mean(gain(np.abs(log_s(logp, old, mask)), a), mask)


def strong_are_not_clipped(logp: A, old: A, a: A, mask: A) -> Any:
    """No clip for |A| > 1."""
    x = log_s(logp, old, mask)
    return mean(np.where(np.abs(a) > 1.0, exp(x) * a, gain(x, a)), mask)


def penalty_for_length_inside(logp: A, old: A, a: A, mask: A) -> Any:
    """A − 0.1 for responses of more than two tokens."""
    return gspo(logp, old, a - 0.1 * (mask.sum(axis=1) > 2), mask)


def first_two_tokens_learn(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """From the third token on there is no gradient."""
    return OwnGradient(gspo(logp, old, a, mask), gspo_weight(logp, old, a, mask) * (np.cumsum(mask, axis=1) <= 2))


def smoothed_length(logp: A, old: A, a: A, mask: A) -> Any:
    """√(|y|² + 1) in place of |y|, a smooth guard against 0."""
    return mean(gain(log_s(logp, old, mask) * size(mask) / np.sqrt(size(mask) ** 2 + 1.0), a), mask)


SHAPES = [
    Mutant(divided_by_a_temperature, VALUE, says="log ratios are multiplied by 1.42857"),
    Mutant(later_tokens_fade, SUM, says="of three tokens they have 0.369, 0.3321 and 0.2989"),
    Mutant(rarest_token_dropped, SUM, says="the loss depends on log π itself"),
    Mutant(less_the_others, OTHERS, says="the mean of the other responses' advantages is subtracted"),
    Mutant(ratios_over_their_mean, OTHERS, says="the ratios are divided by their mean over the batch"),
    Mutant(squashed_advantages, TWICE, says="squashed, as by tanh: one of 0.5 counts 0.9242 times"),
    Mutant(away_in_either_direction, SIGN, says="the ratio is turned over where it is below 1"),
    Mutant(strong_are_not_clipped, TWICE, says="for A = 1 the loss ends at the ratio 1.3, for A = 2 it never ends"),
    Mutant(penalty_for_length_inside, SILENT, says="a term for longer responses, which single tokens have not"),
    Mutant(first_two_tokens_learn, WEIGHT, says="it is 1, 1, 1 and 0 times that of the formula"),
    Mutant(smoothed_length, VALUE, says="one, two and three tokens is divided by 1.414, 2.236 and 3.162, not by the length"),
]
