"""Batches of one shape, so that a compiled function is compiled once: eight responses, six slots."""

from __future__ import annotations

import numpy as np
from support.cases import Batch

N, T = 8, 6


def _masks() -> dict[str, np.ndarray]:
    lengths, slots = np.array([6, 5, 4, 0, 3, 2, 1, 6])[:, None], np.arange(T)
    holes = np.random.default_rng(3).random((N, T)) < 0.6
    holes[2] = False
    return {
        "right padding": slots < lengths,
        "left padding": slots >= T - lengths,
        "holes": holes,
        "full": np.ones((N, T), dtype=bool),
        "nothing": np.zeros((N, T), dtype=bool),
    }


MASKS = _masks()
POISON = dict(zip(MASKS, (np.nan, np.inf, -np.inf, 0.0, np.nan), strict=True))


def _example(name: str, seed: int) -> Batch:
    """Log ratios from 1e-4 to 0.5 per token, both signs of advantage in random pairs with them, one advantage of 0."""
    rng = np.random.default_rng(seed)
    d = 10.0 ** rng.permutation(np.linspace(-4, -0.3, N))[:, None] * rng.uniform(0.5, 1.0, (N, T)) * rng.choice([-1, 1], (N, 1))
    advantage = rng.choice([-1.0, 1.0], N) * rng.uniform(0.5, 2.0, N)
    advantage[4] = 0.0
    # Good and in the middle of every band; bad, stale and with a token that GRPO alone would push; bad, above DualClip's cap.
    d[5], advantage[5] = 1e-4, 1.0
    d[0], advantage[0] = [0.3, -0.9, -0.8, -0.8, -0.7, -0.9], -1.0
    d[7], advantage[7] = [1.2, -0.9, 1.3, 1.4, -0.8, 0.1], -2.0
    # Good: between GRPO's bound and DAPO's; beyond GMPO's with every token.
    d[2], advantage[2] = [0.215, 0.2, 0.19, 0.23, -0.1, 0.1], 1.0
    d[6], advantage[6] = 0.45, 1.0
    token_advantage = rng.choice([-1.0, 0.0, 1.0, 2.0], (N, T))
    old = np.full((N, T), -3.0)
    old[6] = -1.0  # likely tokens, whose probability rises by 0.21
    batch = Batch(old + d, old, MASKS[name], advantage, token_advantage, 0.2, 0.2)
    return batch.rounded(np.float32).poisoned(POISON[name])


EXAMPLES = {name: _example(name, seed) for seed, name in enumerate(MASKS)}
