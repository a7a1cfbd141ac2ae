"""What a check found: a table, JSON, and one counterexample for each broken law."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .runner import Status, Verdict, size


@dataclass(frozen=True, eq=False)
class Report:
    """All verdicts on one loss."""

    subject: str
    """The loss."""
    like: str
    """The objective that it is said to be like."""
    framework: str
    """What computed it."""
    seed: int
    verdicts: tuple[Verdict, ...]
    unchecked: tuple[str, ...] = ()
    """What no law can tell of this loss, in words."""

    @property
    def ok(self) -> bool:
        """No law is broken, and none that was claimed went untested."""
        return not self.broken and not any(v.status is Status.VACUOUS for v in self.verdicts)

    @property
    def broken(self) -> tuple[Verdict, ...]:
        """The laws that are broken, each with its counterexample."""
        return tuple(v for v in self.verdicts if v.status is Status.BROKEN)

    @property
    def kept(self) -> tuple[Verdict, ...]:
        """The laws that held."""
        return tuple(v for v in self.verdicts if v.status is Status.KEPT)

    def __str__(self) -> str:
        """A table, then the counterexamples."""
        asked = [v for v in self.verdicts if v.status is not Status.NOT_CLAIMED]
        lines = [f"{self.subject}, like {self.like} ({self.framework}, seed {self.seed})", ""]
        lines += [f"  {MARKS[v.status]}  {v.law.name}" for v in asked]
        skipped = len(self.verdicts) - len(asked)
        lines += ["", f"{len(self.kept)} laws hold, {len(self.broken)} are broken, {skipped} are not claimed."]
        lines += [f"Not checked: {words}." for words in self.unchecked]
        for v in self.broken:
            lines += ["", f"BROKEN: {v.law.name}", f"  {v.law.otherwise}.", indented(str(v.violation))]
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


MARKS = {Status.KEPT: "holds ", Status.BROKEN: "BROKEN", Status.VACUOUS: "untold", Status.NOT_CLAIMED: "-     "}


def indented(text: str) -> str:
    """Two spaces before every line."""
    return "\n".join("  " + line for line in text.splitlines())


def _entry(v: Verdict) -> dict[str, Any]:
    found: dict[str, Any] = {"law": v.law.name, "status": v.status.value, "cases": v.told}
    if v.violation is not None:
        sequences, tokens = size(v.violation)
        found |= {"otherwise": v.law.otherwise, "counterexample": str(v.violation), "sequences": sequences, "tokens": tokens}
    return found
