"""The result of a check: a table, JSON, and one counterexample for each broken law."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .law import Severity
from .runner import LawVerdict, Status, size


@dataclass(frozen=True, eq=False)
class Report:
    """The verdicts of all laws on one loss. Print it for a table and the counterexamples."""

    subject: str
    """Name of the loss."""
    like: str
    """Name of the objective whose claims the loss was checked against."""
    framework: str
    """Name of the array library, empty for advantages and clip fractions."""
    seed: int
    """Seed of the random cases."""
    verdicts: tuple[LawVerdict, ...]
    """One per law, in the order of the laws."""
    unchecked: tuple[str, ...] = ()
    """Limits of the check for this loss, one sentence each."""

    @property
    def ok(self) -> bool:
        """Whether the loss is the one that it claims to be: no law of severity WRONG is broken.

        `fragile` has the broken laws of severity FRAGILE, `untested` those that could say nothing.
        """
        return not self.wrong

    @property
    def broken(self) -> tuple[LawVerdict, ...]:
        """The laws that are broken, each with its counterexample."""
        return tuple(v for v in self.verdicts if v.status is Status.BROKEN)

    @property
    def wrong(self) -> tuple[LawVerdict, ...]:
        """The broken laws by which the loss is another one."""
        return tuple(v for v in self.broken if v.law.severity is Severity.WRONG)

    @property
    def fragile(self) -> tuple[LawVerdict, ...]:
        """The broken laws about extreme numbers, and NaN or infinity in padding."""
        return tuple(v for v in self.broken if v.law.severity is Severity.FRAGILE)

    @property
    def kept(self) -> tuple[LawVerdict, ...]:
        """The laws that hold."""
        return tuple(v for v in self.verdicts if v.status is Status.KEPT)

    @property
    def untested(self) -> tuple[LawVerdict, ...]:
        """The laws that apply, and that no case could have broken, or that need a compiler which refuses the loss."""
        return tuple(v for v in self.verdicts if v.status in {Status.UNTESTED, Status.REFUSED})

    @property
    def summary(self) -> str:
        """The counts, in words."""
        skipped = sum(v.status is Status.NOT_CLAIMED for v in self.verdicts)
        counts = [f"{len(self.kept)} laws hold", f"{len(self.wrong)} are broken"]
        counts += [f"{len(self.fragile)} fail at extremes only"] if self.fragile else []
        counts += [f"{len(self.untested)} could not be tested"] if self.untested else []
        return ", ".join([*counts, f"{skipped} do not apply"])

    def __str__(self) -> str:
        """A table, then the counterexamples."""
        applied = [v for v in self.verdicts if v.status is not Status.NOT_CLAIMED]
        lines = [f"{self.subject}, like {self.like} ({self.framework}, seed {self.seed})", ""]
        lines += [f"  {mark(v):8}  {v.law.name}" for v in applied]
        lines += ["", f"{self.summary}."]
        lines += [f"Not checked: {words}." for words in self.unchecked]
        lines += [f"Not tested: {v.law.name}: {v.refusal}" for v in self.verdicts if v.refusal]
        for v in (*self.wrong, *self.fragile):
            lines += ["", f"{mark(v)}: {v.law.name}", f"  {v.law.otherwise}.", indented(str(v.violation))]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Everything in plain types."""
        return {
            "subject": self.subject,
            "like": self.like,
            "framework": self.framework,
            "seed": self.seed,
            "ok": self.ok,
            "unchecked": list(self.unchecked),
            "laws": [_entry(v) for v in self.verdicts],
        }

    def json(self) -> str:
        """As JSON."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False)


MARKS = {
    Status.KEPT: "holds",
    Status.BROKEN: "BROKEN",
    Status.UNTESTED: "untested",
    Status.REFUSED: "untested",
    Status.NOT_CLAIMED: "-",
}


def mark(v: LawVerdict) -> str:
    """A verdict in one word."""
    return "fragile" if v.violation is not None and v.law.severity is Severity.FRAGILE else MARKS[v.status]


def indented(text: str) -> str:
    """Two spaces before every line."""
    return "\n".join("  " + line for line in text.splitlines())


def _entry(v: LawVerdict) -> dict[str, Any]:
    found: dict[str, Any] = {"law": v.law.name, "status": v.status.value, "cases": v.cases}
    found["severity"] = v.law.severity.name.lower()
    if v.refusal:
        found |= {"refusal": v.refusal}
    if v.violation is not None:
        sequences, tokens = size(v.violation)
        found |= {"otherwise": v.law.otherwise, "counterexample": str(v.violation), "sequences": sequences, "tokens": tokens}
    return found
