"""Random batches from a seed, without Hypothesis: ragged, poisoned in masked slots, log ratios from 1e-8 to 40 nats."""

from __future__ import annotations

import numpy as np
from support.cases import POISONS, Batch


def _mask(rng: np.random.Generator, num: int, width: int) -> np.ndarray:
    lengths, slots = rng.integers(0, width + 1, size=(num, 1)), np.arange(width)
    kind = rng.integers(0, 5)
    if kind == 0:
        return slots < lengths
    if kind == 1:
        return slots >= width - lengths
    if kind == 2:
        return rng.random((num, width)) < rng.random((num, 1))
    return np.full((num, width), kind == 3)


def random_batch(rng: np.random.Generator) -> Batch:
    """A batch of 1 to 8 rows of 0 to 12 slots; the range is that of GSPO, of GRPO, or any."""
    num, width = int(rng.integers(1, 9)), int(rng.integers(0, 13))
    low, high = [(3e-4, 4e-4), (0.2, 0.27), (float(rng.random()), float(5 * rng.random()))][rng.integers(0, 3)]
    old = -(10.0 ** rng.uniform(-3, 2, (num, width)))
    together, apart = (10.0 ** rng.uniform(-8, 1, (num, 1)) * (rng.random((num, 1)) > 0.2) for _ in range(2))
    logp = old + together * rng.normal(size=(num, 1)) + apart * rng.normal(size=(num, width))
    advantage, token_advantage = (
        rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 3) * (rng.random(shape) > 0.2) for shape in ((num,), (num, width))
    )
    batch = Batch(logp, old, _mask(rng, num, width), advantage, token_advantage, low, high)
    return batch.poisoned(POISONS[rng.integers(0, len(POISONS))])
