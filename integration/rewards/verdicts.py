"""What is said about an answer: a score in [0, 1], and why it is 0 where the verifier did not come to one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

KINDS = {
    "error": "made the verifier raise an exception, or gave no number in [0, 1]",
    "time": "ran out of time",
    "memory": "ran out of memory",
    "exit": "ended the verifier's process",
    "crash": "crashed the verifier's process",
    "forbidden": "tried to write a file, start a process or open a connection",
    "lost": "were being judged when the worker process was lost",
}
"""Ways in which a verifier can fail on an answer, which then scores 0."""
OF_CODE = {name: code for code, name in enumerate(["", *KINDS])}
"""A kind as a number: how it is written between processes; 0 for no failure."""


class Verdict(NamedTuple):
    """Of one answer."""

    score: float
    """In [0, 1]."""
    failure: str = ""
    """One of `KINDS`, or nothing."""

    @classmethod
    def of(cls, score: object, failure: object) -> Verdict:
        """From what another process says, which is not trusted: anything but a score in [0, 1] and a kind is an error."""
        if failure in KINDS:
            return cls(0.0, str(failure))
        right = isinstance(score, (int, float)) and not isinstance(score, bool) and 0.0 <= score <= 1.0
        return cls(float(score), "") if right and failure == "" else cls(0.0, "error")  # type: ignore[arg-type]  # `right`


@dataclass(frozen=True)
class Limits:
    """What judging one answer may use."""

    seconds: float = 2.0
    """Of processor time, so that a busy machine scores as an idle one. Asleep, an answer may take `wall` seconds."""
    megabytes: int = 1024
    """Of memory, beside what the verifier has from the start."""

    @property
    def wall(self) -> float:
        """Seconds on the clock after which an answer is given up, whatever it does."""
        return 2.0 * self.seconds + 3.0


class Verifier(Protocol):
    """Judges answers to the questions of a task."""

    def verdicts(self, pairs: Sequence[tuple[dict[str, Any], str]]) -> list[Verdict]:
        """Of (the question's entry, the answer), in their order."""


def failures(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many answers the verifier failed on, by kind.

    >>> failures([Verdict(1.0), Verdict(0.0, "time"), Verdict(0.0, "time")])
    {'time': 2}
    """
    return dict(sorted(Counter(v.failure for v in verdicts if v.failure).items()))


def failure_findings(row: dict[str, Any], answers: int) -> list[dict[str, str]]:
    """A rollout's failures as findings, for the terminal and the report.

    >>> failure_findings({"verifier_failures": {"time": 3}}, 96)[0]["sentence"]
    '3 of 96 answers ran out of time: the verifier came to no score, and they count as 0.'
    """
    return [
        {"kind": f"VERIFIER_{kind.upper()}", "sentence": f"{count} of {answers} answers {KINDS[kind]}: {_SO}"}
        for kind, count in row.get("verifier_failures", {}).items()
    ]


_SO = "the verifier came to no score, and they count as 0."


def checked(score: object) -> Verdict:
    """A verifier's own result; what is no number in [0, 1] is an error.

    >>> checked(0.5), checked(float("nan")).failure, checked("0.5").failure
    (Verdict(score=0.5, failure=''), 'error', 'error')
    """
    try:
        number = math.nan if isinstance(score, str | bytes) else float(score)  # type: ignore[arg-type]  # whatever it is
    except Exception:  # of one of reasoning-gym's 106 verifiers, or somebody's own
        number = math.nan
    return Verdict(number) if 0.0 <= number <= 1.0 else Verdict(0.0, "error")
