"""The clip beyond e⁵⁰: a contract of a surrogate, not a law of a loss; see laws/chapters/arrays/extremes.py for those."""

from __future__ import annotations

import numpy as np
from support.budgets import assert_within

from gspo_core import Clip


def test_the_surrogate_is_its_own_derivative_across_the_guard() -> None:
    """Value and slope of the clip stay consistent at 50, by central differences."""
    x, h = np.array([49.5, 49.99, 50.01, 51.0, 1000.0]), 1e-4
    up, down = (Clip(0.2, 0.2)(np, x + s * h, np.full(5, -1.0)).value for s in (1, -1))
    slope = Clip(0.2, 0.2)(np, x, np.full(5, -1.0)).slope
    # h²/6 = 2e-9 for exp, plus rounding of the values over the step: 1e-16 · 1000 / 1e-4.
    assert_within((up - down) / (2 * h), slope, 1e-8 * np.abs(slope))
