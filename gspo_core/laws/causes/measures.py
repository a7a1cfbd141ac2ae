"""Numbers that are read off the loss of single tokens."""

from __future__ import annotations

import math

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.subject import LossError, Subject


def power_of_a_token(subject: Subject, c: float = 0.01) -> float:
    """f, if the loss of a single token grows like r^f, as where log ratios are divided by the length plus one; else 1."""
    try:
        sizes = [abs(subject.value(Batch.of([[x]], [a])).value) for x, a in ((0.0, -1.0), (c, -1.0), (0.0, 1.0), (-c, 1.0))]
    except LossError:
        return 1.0
    if not all(math.isfinite(x) and x > 0 for x in sizes):
        return 1.0
    up, down = math.log(sizes[1] / sizes[0]) / c, math.log(sizes[2] / sizes[3]) / c
    return up if 0.01 < up < 100 and abs(up - down) <= 1e-5 * max(1.0, up) else 1.0
