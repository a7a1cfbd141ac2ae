"""Batches whose tokens are likely enough to leave a trust region in probabilities."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from support.cases import POISONS, Batch


@st.composite
def likely(draw: st.DrawFn) -> Batch:
    """Old probabilities anywhere in (0, 1), new ones about a quarter away, holes, poison, advantages of both signs and 0."""
    shape = (draw(st.integers(1, 5)), draw(st.integers(1, 6)))
    poison = draw(st.sampled_from(POISONS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    old = rng.uniform(0.01, 0.99, shape)
    new = np.clip(old + 0.25 * rng.normal(size=shape), 1e-3, 1.0)
    choices = [-2.0, -1.0, 0.0, 0.5, 1.0]
    mask = rng.random(shape) < 0.8
    batch = Batch(np.log(new), np.log(old), mask, rng.choice(choices, shape[0]), rng.choice(choices, shape), 0.2, 0.2)
    return batch.poisoned(poison)
