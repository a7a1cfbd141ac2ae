"""Checks of plain arguments: numbers, flags, and choices that must be values. Each error names the argument.

There is one notion of a number: one of Python, a NumPy scalar, or a [] array of any library whose number can be read. What a
function keeps is the Python number, so that options stay hashable and two that are equal are one.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np

from .array import is_array, is_integer, is_real, namespace, number_at_hand, plain_number, shape_of, to_numpy

LARGEST_FLOAT = int(np.finfo(np.float64).max)
LARGEST_COUNT = 2**63 - 1
"""Of an int64, in which every library counts."""


def as_number(name: str, value: Any) -> int | float:
    """The Python number that a value is; text, None, flags, complex numbers and arrays with an axis are none.

    Args:
        name: of the argument, for the error.
        value: a number of Python, a NumPy scalar, or a [] array of any library.

    Returns: an int or a float.

    Raises: TypeError for what is no number, ValueError for an integer beyond the range of a float.

    >>> import numpy as np
    >>> as_number("temperature", 0.7), as_number("temperature", np.asarray(2))
    (0.7, 2)
    """
    if type(value) is float:
        return value
    plain = value if isinstance(value, Real) or not hasattr(value, "dtype") else plain_number(value)
    if isinstance(plain, bool) or not isinstance(plain, Real):
        why = ", which has no real number that can be read here" if getattr(value, "shape", None) == () else ""
        raise TypeError(f"{name}: expected a number, got {value!r} ({type(value).__name__}){why}")
    if not isinstance(plain, Integral):
        return float(plain)
    if not -LARGEST_FLOAT <= int(plain) <= LARGEST_FLOAT:
        raise ValueError(f"{name}: expected a number within the range of a float, got an integer of {_digits(plain)} digits")
    return int(plain)


def _digits(number: Any) -> int:
    """Number of decimal digits of an integer, to within one; Python prints no integer of more than 4300."""
    return int(int(number).bit_length() * math.log10(2)) + 1


def as_coefficient(name: str, value: Any) -> Any:
    """A factor of either sign that may change from step to step: a finite Python number, or a [] array of real numbers.

    Args:
        name: of the argument, for the error.
        value: as for `as_number`.

    Returns: an int or a float; a [] array of a framework as it came, so that nothing waits for a device and a traced one stays
    traced.

    Raises: TypeError for another kind, ValueError for a number that is not finite.

    >>> as_coefficient("entropy_bonus", -0.01)
    -0.01
    """
    if not _is_of_a_framework(value):
        number: float | None = as_number(name, value)
    else:
        xp = namespace(**{name: value})
        if shape_of(value) or not (is_real(xp, value) or is_integer(xp, value)):
            raise TypeError(f"{name}: expected a number or a [] array, got {list(shape_of(value))} of {value.dtype}")
        number = number_at_hand(xp, value)
    if number is not None and not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {number}")
    return value if _is_of_a_framework(value) else number


def as_positive(name: str, value: Any) -> Any:
    """A positive finite Python number; a [] array of a framework as it came, to be checked where its numbers are.

    Args:
        name: of the argument, for the error.
        value: as for `as_number`.

    Returns: an int or a float, or the array.

    Raises: TypeError for what is no number, ValueError for a number out of range and an array with an axis.

    >>> as_positive("denominator", 64)
    64
    """
    if is_array(value) and shape_of(value):
        raise ValueError(f"{name}: expected a number or a [] array, got shape {list(shape_of(value))}")
    if _is_of_a_framework(value):
        return value
    number = as_number(name, value)
    check_positive(name, number)
    return number


def check_positive(name: str, number: float) -> None:
    """ValueError unless the number is positive and finite."""
    if not 0 < number < math.inf:
        raise ValueError(f"{name}: expected a positive finite number, got {number}")


def _is_of_a_framework(value: Any) -> bool:
    return is_array(value) and not isinstance(value, (np.ndarray, np.generic))


def hold_numbers(options: Any, *names: str) -> None:
    """In place of the named fields of a frozen dataclass, the Python numbers that they are; TypeError names the field."""
    for name in names:
        object.__setattr__(options, name, as_number(name, getattr(options, name)))


def check_flag(name: str, value: Any) -> None:
    """Refuses everything but True and False: a number or an array is no flag.

    Args:
        name: of the argument, for the error.
        value: the flag.

    Returns: nothing.

    Raises: TypeError.

    >>> check_flag("static", False)
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")


def as_whole(name: str, value: Any, least: int, most: int = LARGEST_COUNT) -> int:
    """The Python integer that a value is, from `least` to `most`.

    Args:
        name: of the argument, for the error.
        value: an integer of Python, a NumPy scalar, or a [] array of integers of any library.
        least: the smallest that is taken.
        most: the largest.

    Returns: an int.

    Raises: ValueError.

    >>> import numpy as np
    >>> as_whole("length", np.int64(3), 1)
    3
    """
    if type(value) is int and least <= value <= most:
        return value
    plain = value if isinstance(value, Real) or not hasattr(value, "dtype") else plain_number(value)
    if isinstance(plain, bool) or not isinstance(plain, Integral) or not least <= int(plain) <= most:
        bounded = most < LARGEST_COUNT or (isinstance(plain, Integral) and int(plain) > most)
        upper = f" and at most {most}" if bounded else ""
        came = (
            f"an integer of {_digits(plain)} digits"
            if isinstance(plain, Integral) and abs(int(plain)) > LARGEST_COUNT
            else repr(value)
        )
        raise ValueError(f"{name}: expected a whole number of at least {least}{upper}, got {came}")
    return int(plain)


def as_reals(name: str, values: Any) -> np.ndarray:
    """Real numbers on the host, in float64: those of a list, or of an array of any library.

    Args:
        name: of the argument, for the error.
        values: a list or an array; one that is empty may be of any kind.

    Returns: a NumPy array of any shape.

    Raises: TypeError.

    >>> as_reals("lengths", [4, 5]).tolist()
    [4.0, 5.0]
    """
    array = on_host(name, values)
    if array.size and array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: expected real numbers, got {_shown(values, array)}")
    return array.astype(np.float64)


def on_host(name: str, values: Any) -> np.ndarray:
    """A list or an array of any library as a NumPy array; TypeError for one that is ragged or has a mask of its own."""
    if isinstance(values, np.ma.MaskedArray):
        namespace(**{name: values})
    try:
        return np.asarray(to_numpy(values))
    except ValueError as error:
        raise TypeError(f"{name}: expected a list of numbers, got one that is ragged") from error


def _shown(values: Any, array: np.ndarray) -> str:
    return f"dtype {array.dtype}" if hasattr(values, "dtype") or isinstance(values, (list, tuple)) else type(values).__name__


def check_choice(name: str, value: Any, needs: tuple[str, ...], expected: str) -> None:
    """TypeError for a class in place of a value, and for a value that lacks one of the attributes it needs."""
    if isinstance(value, type):
        raise TypeError(f"{name}: expected a value, got the class {value.__name__}; write {value.__name__}(...)")
    if not all(hasattr(value, need) for need in needs):
        raise TypeError(f"{name}: expected {expected}, got {value!r} ({type(value).__name__})")
