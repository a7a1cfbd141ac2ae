"""Mutants that show in large batches, long responses or large advantages only."""

from __future__ import annotations

from typing import Any

import numpy as np

from gspo_core.objectives.presets import DAPO, DR_GRPO, LUSPO

from .mutant import HIGH, LIKE_GRPO, LOW, A, Mutant, gain, gspo, log_s, mean, ratios, size, token_mean

ROWS = "a batch of many ragged rows has the loss of its rows"
LONG = "a response of thousands of tokens has the loss of the formula"
TWICE = "twice the advantage, twice the loss"
GUARD = "no overflow guard changes ratios below e⁵⁰"


def _chunk_means(logp: A, old: A, a: A, mask: A, chunk: int) -> Any:
    """Mean over chunks of rows of the mean of each."""
    parts = [slice(i, i + chunk) for i in range(0, len(mask), chunk)]
    return np.mean([gspo(logp[p], old[p], a[p], mask[p]) for p in parts if mask[p].any()]) if mask.any() else 0.0


def chunks_of_four_rows(logp: A, old: A, a: A, mask: A) -> Any:
    """Mean of the means of micro-batches of four rows."""
    return _chunk_means(logp, old, a, mask, 4)


def chunks_of_eight_rows(logp: A, old: A, a: A, mask: A) -> Any:
    """Mean of the means of micro-batches of eight rows."""
    return _chunk_means(logp, old, a, mask, 8)


def chunks_of_sixty_four_rows(logp: A, old: A, a: A, mask: A) -> Any:
    """Mean of the means of micro-batches of 64 rows."""
    return _chunk_means(logp, old, a, mask, 64)


def last_rows_left_over(logp: A, old: A, a: A, mask: A) -> Any:
    """Rows are taken by eight, and those that do not fill up eight are left out."""
    kept = len(mask) - len(mask) % 8 or len(mask)
    return gspo(logp[:kept], old[:kept], a[:kept], mask[:kept])


def at_most_sixteen_rows(logp: A, old: A, a: A, mask: A) -> Any:
    """A buffer for sixteen rows."""
    return gspo(logp[:16], old[:16], a[:16], mask[:16])


def whitened_from_eight_rows(logp: A, old: A, a: A, mask: A) -> Any:
    """Advantages are whitened again if there are eight or more."""
    return gspo(logp, old, (a - a.mean()) / (a.std() + 1e-6) if len(a) >= 8 else a, mask)


def sorted_from_four_rows(logp: A, old: A, a: A, mask: A) -> Any:
    """Rows are sorted by length, and the advantages are not, from four rows on."""
    by = np.argsort(mask.sum(axis=1), kind="stable") if len(mask) >= 4 else np.arange(len(mask))
    return gspo(logp[by], old[by], a, mask[by])


def five_tokens(logp: A, old: A, a: A, mask: A) -> Any:
    """Only the first five slots of a response are read."""
    return gspo(logp[:, :5], old[:, :5], a, mask[:, :5])


def outlying_rows_dropped(logp: A, old: A, a: A, mask: A) -> Any:
    """From eight rows on, the one that moved farthest is left out."""
    x = np.abs(log_s(logp, old, mask))
    kept = np.arange(len(x)) != np.argmax(x) if len(x) >= 8 else np.ones(len(x), dtype=bool)
    return gspo(logp[kept], old[kept], a[kept], mask[kept])


def token_blocks(logp: A, old: A, a: A, mask: A) -> Any:
    """The mean over blocks of 1024 slots of the mean log ratio of each."""
    d, blocks = ratios(logp, old, mask), range(0, mask.shape[1], 1024)
    sums = [d[:, b : b + 1024].sum(axis=1) / size(mask[:, b : b + 1024]) for b in blocks]
    used = [mask[:, b : b + 1024].any(axis=1) for b in blocks]
    return mean(gain(np.sum(sums, axis=0) / np.maximum(1, np.sum(used, axis=0)), a), mask)


def too_long_is_dropped(logp: A, old: A, a: A, mask: A) -> Any:
    """Responses of more than 4096 tokens have no loss."""
    return mean(np.where(mask.sum(axis=1) > 4096, 0.0, gain(log_s(logp, old, mask), a)), mask)


def cut_at_2048(logp: A, old: A, a: A, mask: A) -> Any:
    """Tokens beyond the 2048th do not enter the ratio."""
    return gspo(logp, old, a, mask & (np.cumsum(mask, axis=1) <= 2048))


def cut_at_16384_slots(logp: A, old: A, a: A, mask: A) -> Any:
    """A context of 16384 slots."""
    return gspo(logp[:, :16384], old[:, :16384], a, mask[:, :16384])


def length_in_bfloat16(logp: A, old: A, a: A, mask: A) -> Any:
    """Lengths with eight binary digits, as of a mask in bfloat16."""
    n = size(mask).astype(np.float64)
    unit = 2.0 ** np.maximum(0, np.floor(np.log2(n)) - 7)
    return mean(gain(ratios(logp, old, mask).sum(axis=1) / (np.round(n / unit) * unit), a), mask)


def length_in_float16(logp: A, old: A, a: A, mask: A) -> Any:
    """Lengths with eleven binary digits."""
    n = size(mask).astype(np.float16).astype(np.float64)
    return mean(gain(ratios(logp, old, mask).sum(axis=1) / n, a), mask)


def length_in_eight_bits(logp: A, old: A, a: A, mask: A) -> Any:
    """Lengths modulo 256, as the sum of a mask of bytes."""
    n = np.maximum(1, mask.astype(np.uint8).sum(axis=1, dtype=np.uint8)).astype(np.float64)
    return mean(gain(ratios(logp, old, mask).sum(axis=1) / n, a), mask)


def length_in_sixteen_bits(logp: A, old: A, a: A, mask: A) -> Any:
    """Lengths from 32768 on are negative."""
    n = size(mask).astype(np.int16).astype(np.float64)
    return mean(gain(ratios(logp, old, mask).sum(axis=1) / n, a), mask)


def advantage_clamped_at_100(logp: A, old: A, a: A, mask: A) -> Any:
    """|A| at most 100."""
    return gspo(logp, old, np.clip(a, -100.0, 100.0), mask)


def advantage_clamped_from_below(logp: A, old: A, a: A, mask: A) -> Any:
    """A at least −100."""
    return gspo(logp, old, np.maximum(a, -100.0), mask)


def small_advantages_dropped(logp: A, old: A, a: A, mask: A) -> Any:
    """|A| below 1e-4 counts as 0."""
    return gspo(logp, old, np.where(np.abs(a) < 1e-4, 0.0, a), mask)


def small_log_ratios_dropped(logp: A, old: A, a: A, mask: A) -> Any:
    """|d| below 1e-5 counts as 0."""
    d = ratios(logp, old, mask)
    return gspo(np.where(np.abs(d) < 1e-5, 0.0, d), np.zeros_like(d), a, mask)


def _token_gains(logp: A, old: A, a: A, mask: A, guard: float, high: float) -> A:
    """GRPO's gains with a clamp on the log ratio."""
    return np.where(mask, gain(np.minimum(ratios(logp, old, mask), guard), a[:, None], 0.2, high), 0.0)


def dapo_guarded_at_ten(logp: A, old: A, a: A, mask: A) -> Any:
    """A clamp of the log ratio at 10 in DAPO."""
    return -_token_gains(logp, old, a, mask, 10.0, 0.28).sum() / max(1, mask.sum())


def dr_grpo_guarded_at_twenty(logp: A, old: A, a: A, mask: A) -> Any:
    """A clamp of the log ratio at 20 in Dr.GRPO."""
    return -_token_gains(logp, old, a, mask, 20.0, 0.2).sum() / (3000 * max(1, mask.any(axis=1).sum()))


def luspo_guarded_at_ten(logp: A, old: A, a: A, mask: A) -> Any:
    """A clamp of the mean log ratio at 10 in LUSPO."""
    return mean(gain(np.minimum(log_s(logp, old, mask), 10.0), a, LOW, HIGH) * mask.sum(axis=1), mask)


def grpo_rows_in_chunks(logp: A, old: A, a: A, mask: A) -> Any:
    """GRPO as a mean over chunks of eight rows of their means over tokens."""
    gains = np.where(mask, gain(ratios(logp, old, mask), a[:, None]), 0.0)
    parts = [slice(i, i + 8) for i in range(0, len(mask), 8)]
    found = [gains[p].sum() / max(1, mask[p].sum()) for p in parts] if len(mask) > 8 else []
    return -np.mean(found) if found else mean(token_mean(gains, mask), mask)


SIZES = [
    Mutant(chunks_of_four_rows, ROWS, says="in a batch of 5, 0.625, 0.625, 0.625, 0.625, 2.5 times as much"),
    Mutant(sorted_from_four_rows, ROWS, says="each response alone has the right loss"),
    Mutant(chunks_of_eight_rows, ROWS, says="and 9 have not: 8 weigh 0.5625 times, 1 weighs 4.5 times"),
    Mutant(chunks_of_sixty_four_rows, ROWS, says="and 65 have not: 64 weigh 0.5078 times, 1 weighs 32.5 times"),
    Mutant(last_rows_left_over, ROWS, says="and 9 have not: 8 weigh 1.125 times, 1 weighs 0 times"),
    Mutant(at_most_sixteen_rows, ROWS, says="and 17 have not: 16 weigh 1.062 times, 1 weighs 0 times"),
    Mutant(
        whitened_from_eight_rows, ROWS, says="from 8 responses on, advantages are normalised by mean and standard deviation"
    ),
    Mutant(five_tokens, ROWS, says="of a response of 6 tokens the last one has no effect"),
    Mutant(outlying_rows_dropped, ROWS, says="and 8 have not: 7 weigh 1.143 times, 1 weighs 0 times"),
    Mutant(grpo_rows_in_chunks, ROWS, LIKE_GRPO, says="and 9 have not: 5 weigh 0.6923 times, 3 weigh 0.3462 times"),
    Mutant(token_blocks, LONG, says="in a response of 1025 tokens the first one has 0.5005 times the effect"),
    Mutant(too_long_is_dropped, LONG, says="a response of 4097 tokens or more has loss 0"),
    Mutant(cut_at_2048, LONG, says="of a response of 2049 tokens the last one has no effect"),
    Mutant(cut_at_16384_slots, LONG, says="of a response of 16385 tokens the last one has no effect"),
    Mutant(length_in_bfloat16, LONG, says="the length of a response of 257 tokens is counted as 256"),
    Mutant(length_in_float16, LONG, says="the length of a response of 2049 tokens is counted as 2048"),
    Mutant(length_in_eight_bits, LONG, says="the length of a response of 256 tokens is counted as 1"),
    Mutant(length_in_sixteen_bits, LONG, says="the length of a response of 32768 tokens is counted as -32768"),
    Mutant(advantage_clamped_at_100, TWICE, says="advantages are cut to [−100, 100]"),
    Mutant(advantage_clamped_from_below, TWICE, says="advantages below −100 are cut"),
    Mutant(small_advantages_dropped, TWICE, says="advantages smaller than 0.0001 in size count as 0"),
    Mutant(
        small_log_ratios_dropped,
        "only the sum of a response's log ratios matters",
        says="log ratios smaller than 1e-05 in size count as 0",
    ),
    Mutant(dapo_guarded_at_ten, GUARD, DAPO, seen="verl, SkyRL", says="large ratios are capped"),
    Mutant(dr_grpo_guarded_at_twenty, GUARD, DR_GRPO, seen="verl", says="large ratios are capped"),
    Mutant(luspo_guarded_at_ten, GUARD, LUSPO.with_clip(LOW, HIGH), says="large ratios are capped"),
]
