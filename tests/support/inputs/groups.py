"""Random groups of rewards, some of them not to be used."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from support.libraries import Library

from gspo_core import group_advantages

POISON = [np.nan, np.inf, -np.inf, 1e30]


@st.composite
def groups(draw: st.DrawFn, size: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rewards at least 0, ids, valid): ties, constants, groups without a valid member and all-invalid batches are likely."""
    n = draw(st.integers(1, size))
    ids = draw(st.lists(st.sampled_from([-5, 0, 7]), min_size=n, max_size=n))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["binary", "levels", "wide", "constant"]))
    rewards = {
        "binary": rng.integers(0, 2, n).astype(float),
        "levels": rng.integers(0, 4, n) / 3,
        "wide": rng.random(n) * 10.0 ** rng.uniform(-3, 3),
        "constant": np.full(n, rng.random()),
    }[kind]
    valid = rng.random(n) < draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
    return rewards, np.array(ids, dtype=np.int64), valid


def advantages(
    library: Library, rewards: np.ndarray, ids: np.ndarray, normaliser: Any, valid: Any = None, dtype: type = np.float64
) -> np.ndarray:
    """Through the core on one library."""
    flags = None if valid is None else library.array(valid)
    return library.numpy(group_advantages(library.array(rewards.astype(dtype)), library.array(ids), normaliser, valid=flags))
