"""What the paper of a preset says about a batch: value and gradient of its scalar loops, as NumPy arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from support.oracles.family import METHODS, judge


class Paper(NamedTuple):
    """The loss of a whole batch."""

    value: float
    grad: Any
    """∂value/∂logp, 0 in masked slots."""


def paper(preset: str, logp: Any, old: Any, advantage: Any, mask: Any, denominator: float | None = None) -> Paper:
    """`advantage` is [N] or [N, T]; a denominator of None is the batch's own count."""
    tokens = advantage if np.ndim(advantage) == 2 else np.broadcast_to(np.asarray(advantage)[:, None], np.shape(mask))
    rows = (np.asarray(x).tolist() for x in (logp, old, tokens, mask))
    found = judge(METHODS[preset], *rows, denominator=denominator)
    return Paper(found.value, np.array(found.weight))
