"""When two measured weights or factors are one number."""

from __future__ import annotations

SLACK = 1e-6
"""Relative difference below which two measurements are equal."""


def near(x: float, y: float) -> bool:
    """Whether two numbers are equal but for rounding, relative to the larger one."""
    return abs(x - y) <= SLACK * max(abs(x), abs(y))
