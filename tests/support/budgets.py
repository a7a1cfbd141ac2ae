"""Error budgets: what rounding may cost, in units of what is rounded. No tolerance here is a guess."""

from __future__ import annotations

from typing import Any

import numpy as np

REL64 = 1e-12
"""float64: 4500 units of rounding (2.2e-16), for sums of at most a few hundred terms and one exp. Loose by a factor of
ten at most, and ten orders of magnitude below any mistake in a formula."""


def assert_within(actual: Any, expected: Any, budget: Any) -> None:
    """|actual − expected| ≤ budget everywhere, same shape, nothing but finite numbers on both sides."""
    a, e = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert a.shape == e.shape, f"shapes differ: {a.shape} and {e.shape}"
    assert np.isfinite(a).all(), f"not finite: {a}"
    assert np.isfinite(e).all(), f"expected value not finite: {e}"
    error = np.abs(a - e)
    assert (error <= budget).all(), f"error {np.max(error)} over budget {np.max(budget)}:\n{a}\n{e}"


def assert_close64(actual: Any, expected: Any, scale: float | None = None) -> None:
    """Within 1e-12 of `scale`, by default the largest expected magnitude."""
    size = np.max(np.abs(np.asarray(expected, dtype=np.float64)), initial=0.0) if scale is None else scale
    assert_within(actual, expected, REL64 * size)


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Equal dtype, shape and every bit, the sign of a zero and the payload of a NaN included."""
    a, e = np.ascontiguousarray(actual), np.ascontiguousarray(expected)
    assert (a.dtype, a.shape) == (e.dtype, e.shape)
    assert a.tobytes() == e.tobytes(), f"bits differ:\n{a}\n{e}"


def float32_budget(num_terms: int, largest_log_ratio: float) -> float:
    """Relative error of a float32 loss over at most `num_terms` terms.

    The mean of `num_terms` log ratios is off by at most num_terms · eps · max|d|, which exp turns into a relative error;
    exp, products and quotients add a few eps, and the last sum another num_terms · eps. Four times that.
    """
    return 4.0 * float(np.finfo(np.float32).eps) * (num_terms + 4) * (1.0 + largest_log_ratio)
