"""Checks of plain Python arguments: numbers, flags, and choices that must be values. Each error names the argument."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any


def check_number(name: str, value: Any) -> None:
    """Refuses everything but a real number of Python or NumPy: text, None, flags and arrays are none.

    Args:
        name: of the argument, for the error.
        value: the argument.

    Returns: nothing.

    Raises: TypeError.

    >>> check_number("temperature", 0.7)
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name}: expected a number, got {value!r} ({type(value).__name__})")


def check_positive(name: str, value: Any) -> None:
    """Refuses everything but a positive finite number of Python.

    Args:
        name: of the argument, for the error.
        value: the argument.

    Returns: nothing.

    Raises: ValueError.

    >>> check_positive("coefficient", 0.01)
    """
    if not (isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 < value < math.inf):
        raise ValueError(f"{name}: expected a positive finite number, got {value!r}; leave it out for none")


def check_flag(name: str, value: Any) -> None:
    """TypeError unless it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")


def is_whole(value: Any, least: int) -> bool:
    """Whether it is a Python integer of at least `least`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_choice(name: str, value: Any, needs: tuple[str, ...], expected: str) -> None:
    """TypeError for a class in place of a value, and for a value that lacks one of the attributes it needs."""
    if isinstance(value, type):
        raise TypeError(f"{name}: expected a value, got the class {value.__name__}; write {value.__name__}(...)")
    if not all(hasattr(value, need) for need in needs):
        raise TypeError(f"{name}: expected {expected}, got {value!r} ({type(value).__name__})")
