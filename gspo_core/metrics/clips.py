"""Who is clipped: by length and sign of the advantage, and by any other clip range."""

from __future__ import annotations

import math
from typing import NamedTuple

from gspo_core._lib.checks import as_number

from .book import Book
from .ledger import LENGTH_BINS, Metrics
from .sketch import BINS, share_above


class ClipCell(NamedTuple):
    """A row of `clip_counts`.

    >>> ClipCell(shortest=4, longest=7, sign=-1, sequences=10, clipped=2).clipped
    2
    """

    shortest: int
    """Tokens."""
    longest: int | None
    """Tokens; None for no bound."""
    sign: int
    """Of the advantage: −1, 0, 1 (of its mean over the sequence)."""
    sequences: int
    clipped: int
    """Of these sequences."""


def clip_counts(metrics: Metrics) -> tuple[ClipCell, ...]:
    """Sequences by length (powers of two) and sign of the advantage, and how many are clipped.

    Args:
        metrics: of one batch, or merged.

    Returns: the rows that hold a sequence, by length and then by sign.

    Raises: as `summary`.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded, batch_metrics, policy_loss
    >>> old, layout = np.full((1, 3), -1.0), Padded(np.array([[True, True, True]]))
    >>> batch = (old + 1e-3, old, np.array([1.0]), layout)
    >>> clip_counts(batch_metrics(GSPO, policy_loss(GSPO, *batch), *batch))
    (ClipCell(shortest=2, longest=3, sign=1, sequences=1, clipped=1),)
    """
    table = Book.of(metrics).counts["table"].reshape(LENGTH_BINS, 3, 2)
    rows = []
    for octave in range(LENGTH_BINS):
        longest = 2 ** (octave + 1) - 1 if octave < LENGTH_BINS - 1 else None
        for sign in range(3):
            live, clipped = (int(x) for x in table[octave, sign])
            if live + clipped:
                rows.append(ClipCell(2**octave, longest, sign - 1, live + clipped, clipped))
    return tuple(rows)


def clip_share(metrics: Metrics, low: float, high: float) -> float:
    """The share of sequences that Clip(low, high) on the sequence ratio would have clipped, from the histogram of log s.

    Sequences with A > 0 and log s > log(1 + high), or A < 0 and log s < log(1 − low); 0 if there are none. A bin that a
    bound cuts counts in proportion: bounds are resolved to 9 %.

    Args:
        metrics: of one batch, or merged.
        low: width below 1, in [0, 1).
        high: width above 1, at least 0.

    Returns: a share of all sequences that are not empty.

    Raises: TypeError for a width that is no number, ValueError for one out of range; else as `summary`.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded, batch_metrics, policy_loss
    >>> old, layout = np.full((2, 3), -1.0), Padded(np.full((2, 3), True))
    >>> batch = (old + np.array([[1e-3], [-1e-3]]), old, np.array([1.0, 1.0]), layout)
    >>> clip_share(batch_metrics(GSPO, policy_loss(GSPO, *batch), *batch), 0.0, 5e-4)
    0.5
    """
    low, high = as_number("low", low), as_number("high", high)
    if not 0.0 <= low < 1.0 or not 0.0 <= high < math.inf:
        raise ValueError(f"low, high: expected a width in [0, 1) and one of at least 0, got {low} and {high}")
    negative, _, positive = Book.of(metrics).counts["log_s.bins"].reshape(3, BINS)
    sequences = int(Book.of(metrics).counts["sequences"][0])
    clipped = share_above(positive, math.log1p(high)) + share_above(negative[::-1], -math.log1p(-low))
    return clipped / sequences if sequences else 0.0
