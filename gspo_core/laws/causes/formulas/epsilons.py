"""Suspects of an epsilon in a denominator: of a length, or of the number that the sum is divided by."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.batch import Batch, Floats
from gspo_core.laws.kit.law import Severity

from .ratios import stretched

SIZES = [10.0**-k for k in (3, 4, 5, 6, 7, 8, 9, 10, 12)]
HARMLESS = 1.5e-6
"""Largest epsilon that counts as harmless: a millionth."""
FIX = "harmless up to a millionth; a minimum of 1, clamp(min=1), in place of + epsilon is exact"


def _lengths(eps: float) -> Callable[[Batch], Floats]:
    return lambda batch: batch.lengths / (batch.lengths + eps)


def _count(eps: float) -> Callable[[Batch], Floats]:
    def factor(batch: Batch) -> Floats:
        filled = int((batch.lengths > 0).sum())
        return np.full(len(batch.mask), filled / (filled + eps))

    return factor


def _tokens(eps: float) -> Callable[[Batch], Floats]:
    return lambda batch: np.full(len(batch.mask), batch.mask.sum() / (batch.mask.sum() + eps))


def _of_size(eps: float) -> list[Suspect]:
    """One, two or three denominators with the same epsilon."""
    alone = [
        Suspect("the length in the ratio", FIX, batch=stretched(_lengths(eps)), chain=_lengths(eps)),
        Suspect("the length in the mean over tokens", FIX, factor=_lengths(eps)),
        Suspect("the number of responses", FIX, factor=_count(eps)),
        Suspect("the number of tokens", FIX, factor=_tokens(eps)),
    ]
    severity, found = Severity.HARMLESS if eps <= HARMLESS else Severity.WRONG, list[Suspect]()
    for several in itertools.chain(*(itertools.combinations(alone, size) for size in (1, 2, 3))):
        together = functools.reduce(Suspect.and_also, several)
        words = f"off by an epsilon: {eps:g} is added to {' and '.join(s.sentence for s in several)}"
        found.append(replace(together, sentence=words, fix=FIX, severity=severity))
    return found


def epsilons() -> list[Suspect]:
    """From large to small."""
    return [suspect for eps in SIZES for suspect in _of_size(eps)]
