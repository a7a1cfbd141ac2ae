"""The batches on which a loss and its suspects are compared, from small to large."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.setting import Setting


def probes(setting: Setting) -> list[Batch]:
    """Ragged batches with empty rows, holes, both signs of A, and log ratios inside, between and beyond the bounds."""
    low, high = setting.log_bounds
    low, high = -low or 0.2, high or 0.2
    inner, between, outer = 0.4 * min(low, high), 0.5 * (low + high), 1.7 * max(low, high)
    ragged = [[1, 0, 0, 0], [1, 1, 1, 0]]
    found = [
        Batch.of([[0.0]], [2.0]),
        Batch.of([[inner]], [2.0]),
        Batch.of([[inner, 0.5 * inner, 0.0, 0.0], [-inner, 0.3 * inner, inner, 0.0]], [1.0, -0.5], ragged),
        Batch.of([[inner, 0.0], [0.0, 0.0], [-inner, inner / 2]], [1.5, 3.0, 0.5], [[1, 0], [0, 0], [1, 1]]),
        Batch.of([[0.0, inner, -inner / 3, 0.0], [inner, 0.0, inner, 0.0]], [2.0, 1.0], [[0, 1, 1, 0], [1, 0, 1, 0]]),
        *(Batch.of([[side * outer]], [a]) for side in (1.0, -1.0) for a in (1.0, -1.0)),
        *(Batch.of([[side * between] * 2], [a]) for side in (1.0, -1.0) for a in (1.0, -1.0) if low != high),
        Batch.of([[outer, -0.8 * outer, 0.1 * inner], [-outer, 0.6 * outer, 0.0]], [1.0, -1.0], [[1, 1, 1], [1, 1, 0]]),
        Batch.of([[outer, 0.9 * outer], [-outer, -2 * outer], [inner, inner]], [1.0, -2.0, 0.0]),
        Batch.of([[2.5, 2.0], [-2.5, -2.0]], [-1.0, 0.5]),
        Batch.of([[3.9]], [-1.0]),
        Batch.of([[1.2 * outer], [-inner]], [-1.0, 0.5]),
        *(
            Batch.of([[side * outer, -0.4 * side * outer, 0.2 * side * outer]], [a])
            for side in (1.0, -1.0)
            for a in (1.0, -1.0)
        ),
        Batch.of([[inner, 0.0], [inner, 0.0]], [1.0, 1.0]),
        Batch.of(
            [[0.2 * inner * k, -0.1 * inner * (k % 2 == 0)] for k in range(5)],
            [1.0, -1.0, 2.0, 0.5, -3.0],
            [[1, int(k % 2 == 0)] for k in range(5)],
        ),
    ]
    edges = [x for x in setting.edges if x not in (-setting.log_bounds[0], setting.log_bounds[1])]
    found += [
        Batch.of([[side * x * by for by in row]], [a])
        for x in edges
        for row in ([0.9], [0.97], [1.04], [1.1], [0.7, 0.7], [1.3, -0.5])
        for side in (1.0, -1.0)
        for a in (1.0, -1.0)
    ]
    if getattr(setting.like.gate, "sees_log_probs", False):  # rare tokens: ratios that move far, probabilities that do not
        found += [Batch.of([[d, 0.5 * d]], [a], base=rare) for rare in (-1.0, -3.0) for d in (0.6, -0.6) for a in (1.0, -1.0)]
    if Claim.TOKEN_ADVANTAGES in setting.claims:
        advantage = np.array([[1.0, -0.5, 2.0], [1.0, 0.5, 0.25]])
        found.append(replace(Batch.of([[inner, 0.0, inner], [0.0, -inner, inner]], [1.0, 1.0]), advantage=advantage))
    return found
