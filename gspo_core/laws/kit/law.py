"""A law: a sentence about losses, what it presupposes, and a statement that can be broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy

from .batch import Batch
from .claim import Claim


class Violation(Exception):
    """A law is broken: where, and both numbers."""

    def __init__(self, what: str, batch: Any, actual: Any, expected: Any, note: str = "") -> None:
        super().__init__(what)
        self.what = what
        """Which number is wrong."""
        self.batch = batch
        """The input on which it is."""
        self.actual = actual
        """What the loss says."""
        self.expected = expected
        """What the law says."""
        self.note = note
        """What was done to the input."""

    def __str__(self) -> str:
        """The input and both numbers."""
        done = f"\n{self.note}" if self.note else ""
        return f"{self.what}\n{self.batch}{done}\n  loss says  {number(self.actual)}\n  law says   {number(self.expected)}"


def number(x: Any) -> str:
    """A number or an array, short."""
    if isinstance(x, str):
        return x
    return np.array2string(np.asarray(x, dtype=np.float64), precision=6, suppress_small=False, separator=", ").replace("\n", "")


def demand(actual: Any, expected: Any, allowed: Any, what: str, batch: Any, note: str = "") -> None:
    """Raises Violation unless |actual − expected| ≤ allowed everywhere, and all is finite."""
    a, e = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    with np.errstate(all="ignore"):
        good = a.shape == e.shape and bool(np.all(np.isfinite(a) & (np.abs(a - e) <= allowed)))
    if not good:
        raise Violation(what, batch, actual, expected, note)


Statement = Callable[[Any, Any, Any], bool]
"""(subject, setting, case) ↦ whether the case could have told; raises Violation."""


def _none(setting: Any) -> list[Any]:
    """No anchors."""
    return []


@dataclass(frozen=True, eq=False)
class Law:
    """A sentence about losses, as an object.

    A statement that finds nothing to say about a case (no clipped unit where it speaks of clipped units) returns False;
    a law that was never told anything in a whole run is reported as vacuous, not as kept.
    """

    name: str
    """A sentence."""
    source: str
    """Where it follows from."""
    otherwise: str
    """What a loss does that breaks it, in words."""
    needs: frozenset[Claim]
    """What a loss must claim for the law to apply."""
    cases: Callable[[Any], SearchStrategy[Any]] = field(repr=False)
    """What it is tried on."""
    statement: Statement = field(repr=False)
    anchors: Callable[[Any], list[Any]] = field(repr=False, default=_none)
    """Cases that are always tried first, numbers computed by hand among them."""
    effort: float = 1.0
    """Share of the usual number of examples."""
    chapter: str = ""
    """What it is about."""

    @property
    def explanation(self) -> str:
        """The formula."""
        return (self.statement.__doc__ or "").strip()


def law(
    name: str,
    *,
    source: str,
    otherwise: str,
    cases: Callable[[Any], SearchStrategy[Any]],
    needs: set[Claim] | None = None,
    anchors: Callable[[Any], list[Any]] | None = None,
    effort: float = 1.0,
) -> Callable[[Statement], Law]:
    """Makes a law of a statement; its docstring is the explanation."""

    def made(statement: Statement) -> Law:
        chapter = statement.__module__.rsplit(".", maxsplit=1)[-1]
        return Law(name, source, otherwise, frozenset(needs or ()), cases, statement, anchors or _none, effort, chapter)

    return made


__all__ = ["Batch", "Claim", "Law", "Statement", "Violation", "demand", "law", "number"]
