"""The log-probs of the same tokens under two policies: what of them is a number, and what can be one of a probability."""

from __future__ import annotations

import math
from typing import NamedTuple

from gspo_core._lib.array import shape_of, without_nan_warning
from gspo_core._lib.units import count_tokens
from gspo_core.layouts.prepared import Prepared
from gspo_core.types import Array

from .ledger import Entries

_UNLIMITED = 1e8
"""A number of this size stands for an infinity: logits are masked with −1e9 or the lowest number of their dtype. nats."""


class Compared(NamedTuple):
    """log p − log q at tokens. Responses with a NaN, an infinity or a number that stands for one are not whole, and have no
    part in any mean."""

    d: Array
    """Token array: log p − log q, 0 where it is no finite number."""
    other: Array
    """Token array: log q, 0 in the same places."""
    whole: Array
    """[N] boolean: the sequence has tokens, and all of them are finite."""
    mean: Array
    """[N] the mean of d over a whole sequence, else 0."""
    entries: Entries
    """Counts of what is not finite and of what is above 0, and the largest log-prob of those."""


def compared(name: str, log_p: Array, log_q: Array, layout: Prepared) -> Compared:
    """Two token arrays of log-probs, 0 in masked slots, with each other; entries are named `name`.…"""
    xp = layout.xp
    with without_nan_warning(xp):
        d = log_p - log_q
    finite = (xp.abs(log_p) < _UNLIMITED) & (xp.abs(log_q) < _UNLIMITED)
    broken = count_tokens(layout, ~finite, xp.int32)
    whole = layout.non_empty() & (broken == 0)
    d, other = xp.where(finite, d, 0.0), xp.where(finite, log_q, 0.0)
    above = xp.where(finite, xp.where(log_p > log_q, log_p, log_q), 0.0)
    mean = xp.where(whole, layout.sum_selected(d) / layout.safe_lengths(d), 0.0)
    counts = {
        f"{name}.not_finite": xp.sum(broken),
        f"{name}.positive": xp.sum(count_tokens(layout, above > 0, xp.int32)),
    }
    largest = xp.max(above) if all(shape_of(above)) else xp.sum(above)
    largest = xp.where(xp.sum(layout.lengths()) > 0, largest, -math.inf)
    return Compared(d, other, whole, mean, Entries(counts, {}, {}, {f"{name}.positive": largest}))
