"""Mutants of clip fractions."""

from __future__ import annotations

from typing import Any

import numpy as np

from .mutant import HIGH, LIKE, LIKE_GRPO, LOW, A, Mutant, MutantKind, is_clipped, log_s, ratios

COUNTS = "the clip fraction counts the units that have an advantage and no gradient"
MERGES = "the fractions of parts, weighted by their counts, give the fraction of the whole"
RESPONSES, TOKENS = MutantKind.SEQUENCE_FRACTION, MutantKind.TOKEN_FRACTION


def pairs_counted(logp: A, old: A, a: A, mask: A) -> Any:
    """(N, 1) times (N,): pairs every ratio with every advantage."""
    full = mask.any(axis=1)
    return (is_clipped(log_s(logp, old, mask)[:, None], a) & full[:, None]).mean(axis=1).sum() / full.sum()


def either_side_counted(logp: A, old: A, a: A, mask: A) -> Any:
    """Counts |s − 1| > ε for either sign of A."""
    s, full = np.exp(log_s(logp, old, mask)), mask.any(axis=1)
    return (((s > 1 + HIGH) | (s < 1 - LOW)) & full).sum() / full.sum()


def empty_rows_dilute(logp: A, old: A, a: A, mask: A) -> Any:
    """A mean over all rows, empty ones included."""
    return (is_clipped(log_s(logp, old, mask), a) & mask.any(axis=1)).mean()


def padding_counted(logp: A, old: A, a: A, mask: A) -> Any:
    """Clipped slots, padding included, divided by the number of valid ones."""
    return is_clipped(logp - old, a[:, None]).sum() / mask.sum()


def mean_of_means(logp: A, old: A, a: A, mask: A) -> Any:
    """Each response's share of clipped tokens, averaged over responses."""
    full = mask.any(axis=1)
    share = (is_clipped(ratios(logp, old, mask), a[:, None]) & mask).sum(axis=1) / np.maximum(1, mask.sum(axis=1))
    return share[full].mean()


CLIP_FRACTION = [
    Mutant(pairs_counted, COUNTS, LIKE, "NeMo-RL#3753", kind=RESPONSES, says="every ratio is paired with every advantage"),
    Mutant(
        either_side_counted,
        COUNTS,
        LIKE,
        "Fast-LLM, torchrl",
        kind=RESPONSES,
        says="both sides of the clip range are counted, whatever the sign of A",
    ),
    Mutant(empty_rows_dilute, COUNTS, LIKE, kind=RESPONSES, says="rows without a token are counted in the denominator"),
    Mutant(
        padding_counted,
        "the contents of padding do not change the clip fraction",
        LIKE_GRPO,
        "ROLL: a fraction of 2.0",
        kind=TOKENS,
        says="padding is counted",
    ),
    Mutant(
        mean_of_means,
        MERGES,
        LIKE_GRPO,
        "trl#6380",
        kind=TOKENS,
        says="a mean over responses of each one's share of clipped tokens",
    ),
]
