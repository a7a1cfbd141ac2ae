"""A cause: one difference between a loss and its formula, and the broken laws that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .law import Severity, Violation, apart
from .runner import LawVerdict, size


@dataclass(frozen=True, eq=False)
class Cause:
    """One difference, in words, and the laws that break because of it."""

    sentence: str
    """What the loss does, or the law that it breaks where no difference is known that does so."""
    fix: str
    """What to change; empty if that is not known."""
    severity: Severity
    """How bad it is."""
    follow: tuple[LawVerdict, ...]
    """The broken laws that it explains, the one with the smallest counterexample first."""
    known: bool = True
    """False where no difference is known that explains the laws: the first of them is shown, and the others are beside it."""

    @property
    def counterexample(self) -> Violation:
        """The smallest counterexample."""
        found = self.follow[0].violation
        assert found is not None
        return found

    @property
    def laws(self) -> str:
        """How many laws follow, in words."""
        count = len(self.follow) - (not self.known)
        words = "law follows" if count == 1 else "laws follow"
        if self.known:
            return f"{count} {words}"
        return f"{count} more broken, and no known difference explains them all" if count else "No known difference explains it"

    def __str__(self) -> str:
        """The cause, its counterexample on one line, and the fix."""
        return "\n".join([f"{self.sentence}.", f"  {shortest(self.counterexample)}", *([f"  {self.fix}."] if self.fix else [])])

    def as_dict(self) -> dict[str, Any]:
        """Everything in plain types."""
        return {
            "cause": self.sentence,
            "fix": self.fix,
            "severity": self.severity.name.lower(),
            "counterexample": shortest(self.counterexample),
            "laws": [v.law.name for v in self.follow],
        }


SHOWN = 3
"""Sequences of a counterexample that are shown on one line."""


def smallest_first(verdicts: list[LawVerdict]) -> tuple[LawVerdict, ...]:
    """Broken laws by the number of tokens in their counterexamples; among equals the order stays."""

    def tokens(v: LawVerdict) -> int:
        assert v.violation is not None
        sequences, width = size(v.violation)
        return sequences * width

    return tuple(sorted(verdicts, key=tokens))


def shortest(violation: Violation) -> str:
    """A counterexample on one line: the input, what the loss returns, and what the law requires."""
    actual, expected = apart(violation.actual, violation.expected)
    lines = [" ".join(line.split()) for line in str(violation.batch).splitlines()]
    rows = "; ".join(lines if len(lines) <= SHOWN else [*lines[:SHOWN], f"… ({len(lines) - SHOWN} lines more)"])
    note = f" ({' '.join(violation.note.split())})" if violation.note else ""
    return f"{violation.what}, {rows}{note}: the loss returns {actual}, the law requires {expected}"
