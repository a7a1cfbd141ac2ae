"""A law: a sentence about losses, the claims that it needs, and a check that a loss can fail."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy

from .batch import Batch
from .claim import Claim


class Violation(Exception):
    """A law is broken: the input, the number that the loss returned, and the number that the law requires."""

    def __init__(self, what: str, batch: Any, actual: Any, expected: Any, note: str = "") -> None:
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

    def __str__(self) -> str:
        """The quantity, the input and both numbers."""
        done = f"\n{self.note}" if self.note else ""
        return (
            f"{self.what}\n{self.batch}{done}\n  loss returns  {number(self.actual)}\n  law requires  {number(self.expected)}"
        )


def number(x: Any) -> str:
    """A number or an array on one line."""
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
) -> Callable[[Statement], Law]:
    """Makes a law of a statement, whose docstring is the explanation."""

    def made(statement: Statement) -> Law:
        chapter = statement.__module__.rsplit(".", maxsplit=1)[-1]
        return Law(name, source, otherwise, frozenset(needs or ()), cases, statement, anchors or _none, effort, chapter)

    return made


__all__ = ["Batch", "Claim", "Law", "Statement", "Violation", "demand", "law", "number"]
