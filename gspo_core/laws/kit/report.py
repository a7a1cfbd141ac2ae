"""The result of a check: the causes of broken laws, a table of all laws with their counterexamples, and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .cause import Cause
from .law import Severity
from .runner import LawVerdict, Status, size


@dataclass(frozen=True, eq=False)
class Report:
    """The verdicts of all laws on one loss. Print it for the causes; `table()` has every law and counterexample."""

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
    explain: Callable[[tuple[LawVerdict, ...]], tuple[Cause, ...]] | None = None
    """Finds the causes of broken laws; None: each broken law is a cause of its own."""
    note: str = ""
    """How the loss is called, if not by position."""

    @property
    def ok(self) -> bool:
        """Whether the loss is the one that it claims to be: no law of severity WRONG is broken.

        `fragile` and `harmless` have the broken laws that do not count, `untested` those that could say nothing.
        """
        return not self.wrong

    @cached_property
    def causes(self) -> tuple[Cause, ...]:
        """The differences that explain the broken laws, the worst first; looked for when they are first asked for."""
        if not self.broken or self.explain is None:
            return tuple(Cause(f"not so: {v.law.name}", "", v.law.severity, (v,)) for v in self.broken)
        return self.explain(self.broken)

    @property
    def broken(self) -> tuple[LawVerdict, ...]:
        """The laws that are broken, each with its counterexample."""
        return tuple(v for v in self.verdicts if v.status is Status.BROKEN)

    def of_severity(self, severity: Severity) -> tuple[LawVerdict, ...]:
        """The broken laws whose cause has this severity."""
        follow = {v.law for cause in self.causes if cause.severity is severity for v in cause.follow}
        return tuple(v for v in self.broken if v.law in follow)

    @property
    def wrong(self) -> tuple[LawVerdict, ...]:
        """The broken laws by which the loss is another one."""
        return self.of_severity(Severity.WRONG)

    @property
    def fragile(self) -> tuple[LawVerdict, ...]:
        """The broken laws about extreme numbers, and NaN or infinity in padding."""
        return self.of_severity(Severity.FRAGILE)

    @property
    def harmless(self) -> tuple[LawVerdict, ...]:
        """The broken laws by which nothing changes in training, as by an epsilon in a denominator."""
        return self.of_severity(Severity.HARMLESS)

    @property
    def kept(self) -> tuple[LawVerdict, ...]:
        """The laws that hold."""
        return tuple(v for v in self.verdicts if v.status is Status.KEPT)

    @property
    def untested(self) -> tuple[LawVerdict, ...]:
        """The laws that apply and could not be tested.

        No case could have broken them, the compiler refuses the loss, or they are about batches that it is never given.
        """
        return tuple(v for v in self.verdicts if v.status in {Status.UNTESTED, Status.REFUSED, Status.NEVER_GIVEN})

    @property
    def summary(self) -> str:
        """The counts, in words."""
        skipped = sum(v.status is Status.NOT_CLAIMED for v in self.verdicts)
        counts = [f"{len(self.kept)} laws hold", f"{len(self.wrong)} are broken"]
        counts += [f"{len(self.fragile)} fail at extremes only"] if self.fragile else []
        counts += [f"{len(self.harmless)} are broken without harm"] if self.harmless else []
        counts += [f"{len(self.untested)} could not be tested"] if self.untested else []
        return ", ".join([*counts, f"{skipped} do not apply"])

    @property
    def title(self) -> str:
        """What was checked, and against what."""
        return f"{self.subject}, like {self.like} ({', '.join(filter(None, (self.framework, f'seed {self.seed}')))})"

    def __str__(self) -> str:
        """Each cause, its smallest counterexample and the fix; then the counts."""
        lines = []
        for cause in self.causes:
            lines += [f"{WORDS[cause.severity]}: {cause}", f"  {cause.laws}.", ""]
        lines += [f"{self.title}: {self.summary}."]
        lines += [f"{self.note}."] if self.note else []
        lines += [f"Not checked: {words}." for words in self.unchecked]
        lines += [f"Not tested: {v.law.name}: {v.refusal}" for v in self.verdicts if v.refusal]
        return "\n".join(lines)

    def table(self) -> str:
        """All laws that apply, then the counterexamples."""
        applied = [v for v in self.verdicts if v.status is not Status.NOT_CLAIMED]
        lines = [self.title, "", *(f"  {self.mark(v):8}  {v.law.name}" for v in applied), "", f"{self.summary}."]
        for v in (*self.wrong, *self.fragile, *self.harmless):
            lines += ["", f"{self.mark(v)}: {v.law.name}", indented(str(v.violation))]
        return "\n".join(lines)

    def mark(self, v: LawVerdict) -> str:
        """A verdict in one word."""
        if v.status is not Status.BROKEN:
            return MARKS[v.status]
        return BROKEN[self._severity(v)]

    def as_dict(self) -> dict[str, Any]:
        """Everything in plain types."""
        return {
            "subject": self.subject,
            "like": self.like,
            "framework": self.framework,
            "seed": self.seed,
            "ok": self.ok,
            "unchecked": list(self.unchecked),
            "causes": [cause.as_dict() for cause in self.causes],
            "laws": [self._entry(v) for v in self.verdicts],
        }

    def json(self) -> str:
        """As JSON."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False)

    def _entry(self, v: LawVerdict) -> dict[str, Any]:
        found: dict[str, Any] = {"law": v.law.name, "status": v.status.value, "cases": v.cases}
        found["severity"] = self._severity(v).name.lower()
        if v.refusal:
            found |= {"refusal": v.refusal}
        if v.violation is not None:
            sequences, tokens = size(v.violation)
            found |= {
                "known_mistake": v.law.otherwise,
                "counterexample": str(v.violation),
                "sequences": sequences,
                "tokens": tokens,
            }
        return found

    def _severity(self, v: LawVerdict) -> Severity:
        return next((c.severity for c in self.causes if any(v.law is f.law for f in c.follow)), v.law.severity)


MARKS = {
    Status.KEPT: "holds",
    Status.UNTESTED: "untested",
    Status.REFUSED: "untested",
    Status.NEVER_GIVEN: "untested",
    Status.NOT_CLAIMED: "-",
}
BROKEN = {Severity.WRONG: "BROKEN", Severity.FRAGILE: "fragile", Severity.HARMLESS: "harmless"}
"""A broken law in one word, by the severity of its cause."""
WORDS = {Severity.WRONG: "Cause", Severity.FRAGILE: "Fragile", Severity.HARMLESS: "Harmless"}


def indented(text: str) -> str:
    """Two spaces before every line."""
    return "\n".join("  " + line for line in text.splitlines())
