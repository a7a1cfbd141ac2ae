"""What is no function of the arguments: a loss that is random, or that keeps something from earlier calls."""

from __future__ import annotations

from typing import Any

import numpy as np

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.subject import LossError, Subject

from .suspect import Suspect

FIRST = Batch.of([[0.1, 0.05, 0.0, -0.02] * 4, [0.02, -0.1, 0.03, 0.0] * 4], [1.0, -0.25], base=-1.0)
"""Thirty-two tokens, so that what is drawn for each of them hardly ever agrees by chance."""
OTHER = Batch.of([[-0.1, 0.08, 0.03, 0.2] * 4, [-0.02, 0.1, 0.3, 0.1] * 4], [3.0, 2.0], base=-2.0)
"""A batch of the same shape with other numbers everywhere."""


def unsteady(subject: Subject) -> Suspect | None:
    """Whether the loss of a batch changes from call to call; None if it does not."""
    try:
        first, again = _results(subject, FIRST), _results(subject, FIRST)
        subject(OTHER)
        later = _results(subject, FIRST)
    except LossError:
        return None
    if not _same(first, again):
        words = "two calls with the same batch return different losses: something is random, or kept from the call before"
        return Suspect(words, "make the loss a function of its arguments: no dropout, no running statistics, no counter")
    if not _same(first, later):
        words = "the loss of a batch depends on the batch before it: something is kept between calls"
        return Suspect(words, "make the loss a function of its arguments: no cache of arrays, no running statistics")
    return None


def _results(subject: Subject, batch: Batch) -> tuple[float, np.ndarray]:
    """Value and gradient, the gradient only where the loss or its library has one."""
    if not subject.own_gradient:
        return subject.value(batch).value, np.zeros(0)
    found = subject(batch)
    return found.value, found.weight


def _same(one: tuple[float, np.ndarray], other: tuple[float, np.ndarray]) -> bool:
    """Equal up to the rounding of sums in another order."""
    pairs: list[tuple[Any, Any]] = [(one[0], other[0]), (one[1], other[1])]
    return all(np.allclose(x, y, rtol=1e-9, atol=1e-12, equal_nan=True) for x, y in pairs)
