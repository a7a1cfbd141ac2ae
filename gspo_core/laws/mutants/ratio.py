"""Mutants of the ratio: its mean, its length, and its mask."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    is_clipped,
    log_s,
    mean,
    ratios,
    size,
    token_mean,
)

EQUAL = "a response of equal tokens has the ratio of one of them"
SUM = "only the sum of a response's log ratios matters"
POSITION = "the positions of a response's tokens do not matter"
WIDER = "more padding does not change the loss"
OTHERS = "a response does not change the gradients of the others"
OUTLIER = "an overflow guard acts on the mean log ratio, not on single tokens"


def exp_of_the_sum(logp: A, old: A, a: A, mask: A) -> Any:
    """exp Σ d: no length normalisation."""
    return mean(gain(ratios(logp, old, mask).sum(axis=1), a), mask)


def divided_but_not_summed(logp: A, old: A, a: A, mask: A) -> Any:
    """exp(d_t/|y|) for each token."""
    g = gain(ratios(logp, old, mask) / size(mask)[:, None], column(a))
    return mean(token_mean(g, mask), mask)


def divided_twice(logp: A, old: A, a: A, mask: A) -> Any:
    """The mean, divided by the length."""
    return mean(gain(log_s(logp, old, mask) / size(mask), a), mask)


def length_plus_one(logp: A, old: A, a: A, mask: A) -> Any:
    """|y| + 1 against division by zero."""
    return mean(gain(ratios(logp, old, mask).sum(axis=1) / (mask.sum(axis=1) + 1), a), mask)


def eps_in_the_length(logp: A, old: A, a: A, mask: A) -> Any:
    """|y| + 1e-6."""
    return mean(gain(ratios(logp, old, mask).sum(axis=1) / (mask.sum(axis=1) + 1e-6), a), mask)


def square_root_length(logp: A, old: A, a: A, mask: A) -> Any:
    """Σ d/√|y|."""
    return mean(gain(ratios(logp, old, mask).sum(axis=1) / np.sqrt(size(mask)), a), mask)


def width_for_length(logp: A, old: A, a: A, mask: A) -> Any:
    """The padded width."""
    return mean(gain(ratios(logp, old, mask).sum(axis=1) / mask.shape[1], a), mask)


def span_for_length(logp: A, old: A, a: A, mask: A) -> Any:
    """From the first token to the last, holes included."""
    slots = np.arange(mask.shape[1])
    first, last = np.where(mask, slots, mask.shape[1]).min(axis=1), np.where(mask, slots, -1).max(axis=1)
    return mean(gain(ratios(logp, old, mask).sum(axis=1) / np.maximum(1, last - first + 1), a), mask)


def mask_off_by_one(logp: A, old: A, a: A, mask: A) -> Any:
    """Log-probs of one column, mask of the next."""
    shifted = np.roll(mask, 1, axis=1)
    return gspo(np.where(mask, logp, 0.0), np.where(mask, old, 0.0), a, shifted & mask)


def last_token_dropped(logp: A, old: A, a: A, mask: A) -> Any:
    """One slice [:, :-1] too many."""
    narrow = mask.copy()
    narrow[:, -1] = narrow[:, -1] & (mask.shape[1] == 1)
    return gspo(logp, old, a, narrow)


def arithmetic_mean(logp: A, old: A, a: A, mask: A) -> Any:
    """The arithmetic mean of the token ratios instead of the geometric one."""
    r = np.where(mask, exp(ratios(logp, old, mask)), 0.0).sum(axis=1) / size(mask)
    return mean(np.minimum(r * a, np.clip(r, 1 - LOW, 1 + HIGH) * a), mask)


def largest_token(logp: A, old: A, a: A, mask: A) -> Any:
    """The ratio of the token that moved most upwards."""
    d = np.where(mask, ratios(logp, old, mask), -np.inf).max(axis=1)
    return mean(gain(np.where(mask.any(axis=1), d, 0.0), a), mask)


def grpo_for_gspo(logp: A, old: A, a: A, mask: A) -> Any:
    """Token ratios, clipped token by token."""
    return mean(token_mean(gain(ratios(logp, old, mask), column(a)), mask), mask)


def tokens_clamped_before_the_mean(logp: A, old: A, a: A, mask: A) -> Any:
    """±20 on every token's log ratio."""
    return mean(gain(np.clip(ratios(logp, old, mask), -20.0, 20.0).sum(axis=1) / size(mask), a), mask)


def ratio_upside_down(logp: A, old: A, a: A, mask: A) -> Any:
    """π_old/π."""
    return gspo(old, logp, a, mask)


def row_pooled(logp: A, old: A, a: A, mask: A) -> Any:
    """Treats the batch as one sequence: all responses share one ratio."""
    pooled = ratios(logp, old, mask).sum() / max(1, mask.sum())
    return mean(gain(np.full(len(a), pooled), a), mask)


def pack_pooled(logp: A, old: A, a: A, mask: A) -> OwnGradient:
    """A packed row taken for one response: one ratio, all tokens weigh the same, and each has its own gradient."""
    pooled = np.full(len(a), ratios(logp, old, mask).sum() / max(1, mask.sum()))
    unit = np.where(is_clipped(pooled, a), 0.0, -a * np.exp(np.minimum(pooled, 50.0))) / max(1, mask.sum())
    value = -(mask.sum(axis=1) * gain(pooled, a)).sum() / max(1, mask.sum())
    return OwnGradient(value, np.where(mask, unit[:, None], 0.0))


def unmoved_tokens_do_not_count(logp: A, old: A, a: A, mask: A) -> Any:
    """Tokens with d = 0 are treated as padding."""
    d = ratios(logp, old, mask)
    return mean(gain(d.sum(axis=1) / np.maximum(1, (d != 0).sum(axis=1)), a), mask)


def masked_by_multiplying(logp: A, old: A, a: A, mask: A) -> Any:
    """(logp − old) · mask."""
    return mean(gain(((logp - old) * mask).sum(axis=1) / size(mask), a), mask)


def not_masked(logp: A, old: A, a: A, mask: A) -> Any:
    """Padding enters the sum, which is divided by the right length."""
    return mean(gain((logp - old).sum(axis=1) / size(mask), a), mask)


def masked_advantages_in_the_mean(logp: A, old: A, a: A, mask: A) -> Any:
    """Token advantages are averaged over the padded width."""
    return gspo(logp, old, column(a).mean(axis=1), mask)


RATIO = [
    Mutant(exp_of_the_sum, EQUAL, seen="NeMo-RL#2269, as policy ratio", says="exp of the sum of its log ratios"),
    Mutant(divided_but_not_summed, EQUAL, seen="Trinity-RFT#154", says="exp of its log ratio divided by the length"),
    Mutant(divided_twice, EQUAL, says="by the length twice"),
    Mutant(length_plus_one, EQUAL, says="|y| + 1"),
    Mutant(
        eps_in_the_length,
        EQUAL,
        seen="the 1e-8 conventions of verl, NeMo-RL, ROLL",
        says="off by an epsilon: 1e-06 is added to the length",
    ),
    Mutant(square_root_length, EQUAL, says="by the square root of the length"),
    Mutant(width_for_length, WIDER, seen="OpenRLHF#1252", says="divided by the padded width"),
    Mutant(span_for_length, POSITION, seen="Soup#744", says="by the span from first to last token"),
    Mutant(mask_off_by_one, POSITION, says="the mask is off by one slot"),
    Mutant(last_token_dropped, WIDER, says="the last slot of every row is dropped"),
    Mutant(arithmetic_mean, SUM, says="the arithmetic mean of its token ratios"),
    Mutant(largest_token, SUM, says="the largest of its token ratios"),
    Mutant(grpo_for_gspo, SUM, seen="Soup#744", says="every token has its own ratio"),
    Mutant(
        tokens_clamped_before_the_mean,
        OUTLIER,
        seen="verl#2775, Tunix",
        says="log ratios of single tokens are clamped before they enter the mean",
    ),
    Mutant(ratio_upside_down, "a good response is made likelier, a bad one less likely", says="the ratio is turned over"),
    Mutant(
        row_pooled,
        "a response does not change the gradients of the others",
        seen="Tunix#1662",
        says="all responses of the batch share one ratio",
    ),
    Mutant(pack_pooled, OTHERS, seen="Tunix 0.1.7, packed", says="and all responses of the batch share one ratio"),
    Mutant(
        unmoved_tokens_do_not_count, "tokens with log ratio 0 count in the length", says="log ratio is 0 are treated as padding"
    ),
    Mutant(
        masked_by_multiplying,
        "NaN or infinity in padding does not change the loss",
        seen="WeatherGenerator#2717",
        says="masks by multiplication, which turns NaN and infinity in padding into a NaN loss",
    ),
    Mutant(not_masked, "finite numbers in padding do not change the loss", says="log ratios of padding enter the ratio"),
    Mutant(
        masked_advantages_in_the_mean,
        "numbers in the padding of token advantages do not change the loss",
        LIKE_TOKEN,
        seen="AReaL#1346",
        says="numbers in the padding of token advantages enter the loss",
    ),
]
