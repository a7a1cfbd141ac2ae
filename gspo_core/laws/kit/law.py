"""A law: a sentence about losses, the claims that it needs, and a check that a loss can fail."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy

from .batch import Batch
from .claim import Claim


class Violation(Exception):
    """A law is broken: the input, the number that the loss returned, and the number that the law requires."""

    def __init__(self, what: str, batch: Any, actual: Any, expected: Any, note: str = "", allowed: float | None = None) -> None:
        super().__init__(what)
        self.what = what
        """Which number is wrong."""
        self.batch = batch
        """The input on which it is."""
        self.actual = actual
        """The number that the loss returned."""
        self.expected = expected
        """The number that the law requires."""
        self.note = note
        """How the input was changed, and where the required number comes from."""
        self.allowed = allowed
        """The largest difference that rounding explains; printed for numbers that are equal in six digits."""

    def __str__(self) -> str:
        """The quantity, the input and both numbers, with as many digits as it takes to tell them apart."""
        done = f"\n{self.note}" if self.note else ""
        actual, expected = apart(self.actual, self.expected)
        gap = largest_gap(self.actual, self.expected)
        close = self.allowed is not None and gap is not None and number(self.actual) == number(self.expected)
        difference = f"\n  difference    {gap:.2g}; rounding explains {self.allowed:.2g}" if close else ""
        return f"{self.what}\n{self.batch}{done}\n  loss returns  {actual}\n  law requires  {expected}{difference}"


def number(x: Any, digits: int = 6) -> str:
    """A number or an array on one line."""
    if isinstance(x, str):
        return x
    values = np.asarray(x, dtype=np.float64)
    return np.array2string(values, precision=digits, suppress_small=False, separator=", ").replace("\n", "")


def apart(actual: Any, expected: Any) -> tuple[str, str]:
    """Both numbers, or arrays, with the fewest digits, from six on, that show that they differ.

    >>> apart(0.75, 0.75 + 1e-9)
    ('0.75', '0.750000001')
    """
    for digits in range(6, 18):
        pair = number(actual, digits), number(expected, digits)
        if pair[0] != pair[1]:
            return pair
    unique = [np.array2string(np.asarray(x, dtype=np.float64), floatmode="unique") for x in (actual, expected)]
    return unique[0], unique[1]


def largest_gap(actual: Any, expected: Any) -> float | None:
    """max |actual − expected|; None unless both are finite numbers of one shape."""
    if isinstance(actual, str) or isinstance(expected, str):
        return None
    a, e = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    if a.shape != e.shape or a.size == 0 or not (np.isfinite(a).all() and np.isfinite(e).all()):
        return None
    return float(np.abs(a - e).max())


def demand(actual: Any, expected: Any, allowed: Any, what: str, batch: Any, note: str = "") -> None:
    """Raises Violation unless |actual − expected| ≤ allowed everywhere, and all is finite. Two NaN are not judged."""
    a, e = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    with np.errstate(all="ignore"):
        near = np.isfinite(a) & ((a == e) | (np.abs(a - e) <= allowed))  # a NaN elsewhere makes `allowed` NaN, too
        good = a.shape == e.shape and bool(np.all(near | (np.isnan(a) & np.isnan(e))))
    if not good:
        raise Violation(what, batch, actual, expected, note, float(np.max(allowed)))


class Severity(Enum):
    """How bad it is to break a law. `a >= b` compares them: WRONG is worse than FRAGILE."""

    HARMLESS = "training is the same: off by less than a millionth, as by an epsilon in a denominator"
    FRAGILE = "the loss is right, and fails on extreme numbers, or on NaN and infinity in padding"
    WRONG = "the loss is another one"

    def __ge__(self, other: Severity) -> bool:
        """At least as bad."""
        order = list(Severity)
        return order.index(self) >= order.index(other)


SPELLED = str.maketrans({"−": " minus ", "+": " plus ", "ε": "eps", "'": "", "’": ""})
"""Characters of names that a slug spells out or drops."""

Statement = Callable[[Any, Any, Any], bool]
"""(subject, setting, case) ↦ whether the loss could have failed on this case; raises Violation where it does."""


def _none(setting: Any) -> list[Any]:
    """No anchors."""
    return []


@dataclass(frozen=True, eq=False)
class Law:
    """A sentence about losses, as an object.

    The statement returns False for a case that no loss could fail (a batch without a clipped unit, in a law about clipped
    units). A law for which that is true of every case of a run is reported as untested, not as kept.
    """

    name: str
    """The law, as a sentence."""
    source: str
    """The equation, the entry of docs/theory.md, or the public issue that the law comes from."""
    otherwise: str
    """The mistake that a loss makes if it breaks the law."""
    needs: frozenset[Claim]
    """The claims of the losses that the law applies to."""
    cases: Callable[[Any], SearchStrategy[Any]] = field(repr=False)
    """The strategy that draws cases for a setting."""
    statement: Statement = field(repr=False)
    anchors: Callable[[Any], list[Any]] = field(repr=False, default=_none)
    """Cases that are always tried first, some of them computed by hand."""
    effort: float = 1.0
    """Share of the usual number of examples; below 1 for slow laws and for laws with few cases."""
    chapter: str = ""
    """The subject, from the name of the module."""
    severity: Severity = Severity.WRONG
    """How bad it is to break the law."""

    @property
    def explanation(self) -> str:
        """The formula: the statement's docstring."""
        return (self.statement.__doc__ or "").strip()

    @property
    def slug(self) -> str:
        """The name in ASCII letters, digits and hyphens, for pytest ids (`pytest -k`) and links.

        >>> from gspo_core import laws
        >>> [law.slug for law in laws.LAWS if "ε" in law.name]
        ['the-clip-range-reaches-from-1-minus-eps_low-to-1-plus-eps_high']
        """
        spelled = self.name.translate(SPELLED)
        ascii_only = unicodedata.normalize("NFKD", spelled).encode("ascii", "ignore").decode()
        return "-".join(re.findall(r"\w+", ascii_only))


def law(
    name: str,
    *,
    source: str,
    otherwise: str,
    cases: Callable[[Any], SearchStrategy[Any]],
    needs: set[Claim] | None = None,
    anchors: Callable[[Any], list[Any]] | None = None,
    effort: float = 1.0,
    severity: Severity = Severity.WRONG,
) -> Callable[[Statement], Law]:
    """Makes a law of a statement, whose docstring is the explanation."""

    def made(statement: Statement) -> Law:
        chapter = statement.__module__.rsplit(".", maxsplit=1)[-1]
        required = frozenset(needs or ())
        return Law(name, source, otherwise, required, cases, statement, anchors or _none, effort, chapter, severity)

    return made


__all__ = ["Batch", "Claim", "Law", "Severity", "Statement", "Violation", "demand", "law", "number"]
