"""Mutants of the reduction: the weight of each response, the denominator, and normalisation inside the loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from .mutant import WITH_DENOMINATOR, A, Mutant, column, gain, gspo, log_s, mean, ratios, size

SAME = "every response has the same weight, whatever its length"
SPLIT = "splitting the batch into parts does not change the loss"
DIVISOR = "the loss is divided by the given denominator"
EMPTY = "an empty row contributes nothing"
NOTHING = "a batch without tokens has loss 0"


def ratio_times_token_mask(logp: A, old: A, a: A, mask: A) -> Any:
    """[N, 1] ratio × [N, T] mask, summed over tokens."""
    g = gain(log_s(logp, old, mask), a)[:, None] * mask
    return -g.sum() / max(1, mask.sum())


def token_sum(logp: A, old: A, a: A, mask: A) -> Any:
    """Mean over responses of sums over tokens."""
    return mean(gain(log_s(logp, old, mask), a) * mask.sum(axis=1), mask)


def fixed_width(logp: A, old: A, a: A, mask: A) -> Any:
    """Sum over tokens, divided by N times the padded width."""
    return mean(gain(log_s(logp, old, mask), a) * mask.sum(axis=1) / mask.shape[1], mask)


def square_root_of_the_length(logp: A, old: A, a: A, mask: A) -> Any:
    """Each response divided by the square root of its length."""
    return mean(gain(log_s(logp, old, mask), a) / np.sqrt(size(mask)), mask)


def sum_of_responses(logp: A, old: A, a: A, mask: A) -> Any:
    """No division by the number of responses."""
    return mean(gain(log_s(logp, old, mask), a), mask, 1.0)


def leave_one_out_count(logp: A, old: A, a: A, mask: A) -> Any:
    """N − 1, as in a sample variance."""
    return mean(gain(log_s(logp, old, mask), a), mask, max(1, mask.any(axis=1).sum() - 1))


def masked_row_has_ratio_one(logp: A, old: A, a: A, mask: A) -> Any:
    """An empty row counts with ratio 1 and loss −A."""
    return -gain(log_s(logp, old, mask), a).mean() if mask.any() else 0.0


def denominator_counts_empty_rows(logp: A, old: A, a: A, mask: A) -> Any:
    """Empty rows have no loss, but count in the denominator."""
    return mean(gain(log_s(logp, old, mask), a), mask, len(mask))


def micro_batch_means(logp: A, old: A, a: A, mask: A, denominator: float | None = None) -> Any:
    """Every micro-batch is divided by its own count."""
    return gspo(logp, old, a, mask)


def times_ranks(logp: A, old: A, a: A, mask: A, denominator: float | None = None) -> Any:
    """The count times the number of ranks, here 2."""
    return gspo(logp, old, a, mask, denominator and 2 * denominator)


def divided_by_accumulation_steps(logp: A, old: A, a: A, mask: A, denominator: float | None = None) -> Any:
    """The global count, and the trainer's accumulation steps (here 4) on top."""
    return gspo(logp, old, a, mask, denominator) / (4 if denominator else 1)


def token_count_for_responses(logp: A, old: A, a: A, mask: A, denominator: float | None = None) -> Any:
    """The denominator is treated as a number of tokens, and multiplied by the local mean length."""
    return gspo(logp, old, a, mask, denominator and denominator * mask.sum() / max(1, mask.any(axis=1).sum()))


def empty_batch_is_nan(logp: A, old: A, a: A, mask: A) -> Any:
    """0/0."""
    full = mask.any(axis=1)
    return np.float64(-np.where(full, gain(log_s(logp, old, mask), a), 0.0).sum()) / np.float64(full.sum())


def centred_inside(logp: A, old: A, a: A, mask: A) -> Any:
    """The batch mean of the advantages is subtracted once more."""
    full = mask.any(axis=1)
    a = a - np.where(full, a, 0.0).sum() / max(1, full.sum())
    return gspo(logp, old, np.where(full, a, 0.0), mask)


def normalised_inside(logp: A, old: A, a: A, mask: A) -> Any:
    """Advantages divided by their own size."""
    full = mask.any(axis=1)
    return gspo(logp, old, a / (1e-4 + np.sqrt((np.where(full, a, 0.0) ** 2).sum() / max(1, full.sum()))), mask)


def later_rows_weigh_less(logp: A, old: A, a: A, mask: A) -> Any:
    """A discount over the wrong axis."""
    return gspo(logp, old, a * 0.9 ** np.arange(len(a)), mask)


def sequence_ratio_token_sum_over_longest(logp: A, old: A, a: A, mask: A) -> Any:
    """Sum over tokens, divided by the longest response of the batch."""
    g = gain(log_s(logp, old, mask), a) * mask.sum(axis=1)
    return mean(g / max(1, mask.sum(axis=1).max()), mask)


def token_mean_of_token_ratios(logp: A, old: A, a: A, mask: A) -> Any:
    """DAPO declared as GSPO."""
    g = gain(ratios(logp, old, mask), column(a))
    return -np.where(mask, g, 0.0).sum() / max(1, mask.sum())


REDUCTION = [
    Mutant(ratio_times_token_mask, SAME, seen="trl#3823", says="every token has the same weight"),
    Mutant(token_sum, SAME, seen="ROLL#165", says="not divided by its length"),
    Mutant(fixed_width, SAME, seen="TRL loss_type dr_grpo", says="divided by the padded width"),
    Mutant(square_root_of_the_length, SAME, says="each response is divided by the square root"),
    Mutant(sequence_ratio_token_sum_over_longest, SAME, says="divided by the longest length"),
    Mutant(token_mean_of_token_ratios, SAME, says="a mean over all tokens; and every token has its own ratio"),
    Mutant(sum_of_responses, "copying the batch does not change the loss", says="summed, not averaged"),
    Mutant(leave_one_out_count, "copying the batch does not change the loss", says="divided by N − 1"),
    Mutant(masked_row_has_ratio_one, EMPTY, seen="trl#6095", says="counts as a response with ratio 1"),
    Mutant(denominator_counts_empty_rows, EMPTY, seen="trl#6369", says="rows without a token are counted"),
    Mutant(
        micro_batch_means,
        SPLIT,
        seen="verl#7321, prime-rl#2359",
        names=WITH_DENOMINATOR,
        says="the given denominator is ignored",
    ),
    Mutant(times_ranks, DIVISOR, seen="verl#5798", names=WITH_DENOMINATOR, says="0.5 times the sum"),
    Mutant(divided_by_accumulation_steps, DIVISOR, seen="ms-swift#10117", names=WITH_DENOMINATOR, says="0.25 times the sum"),
    Mutant(token_count_for_responses, SPLIT, names=WITH_DENOMINATOR, says="two responses are divided by 2 times it"),
    Mutant(empty_batch_is_nan, NOTHING, says="on a batch without a token the loss or its gradient is not finite"),
    Mutant(
        centred_inside,
        "a response does not change the gradients of the others",
        seen="Soup#723",
        says="the mean of the advantages is subtracted",
    ),
    Mutant(normalised_inside, "twice the advantage, twice the loss", says="divided by the root mean square of the batch"),
    Mutant(later_rows_weigh_less, "the order of the responses does not matter", says="in a batch of 5, 1, 0.9, 0.81"),
]
