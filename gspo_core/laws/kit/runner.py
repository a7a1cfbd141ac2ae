"""One law, one subject: try the anchors, then draws, and keep the smallest counterexample."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Flaky

from .law import Law, Violation
from .subject import Raised

EXAMPLES = 60
"""Examples per law and check, by default."""


class Status(Enum):
    """What became of a law."""

    KEPT = "holds"
    BROKEN = "broken"
    NOT_CLAIMED = "not claimed"
    VACUOUS = "not tested: no case had anything to say"


@dataclass(frozen=True, eq=False)
class Verdict:
    """A law and what became of it."""

    law: Law
    status: Status
    violation: Violation | None = None
    told: int = 0
    """Cases that could have broken it."""


def size(violation: Violation) -> tuple[int, int]:
    """(sequences, tokens per sequence) of a counterexample."""
    sequences, tokens = violation.batch.mask.shape
    return int(sequences), int(tokens)


class _Run:
    """A law being tried; remembers the last violation, which hypothesis makes the smallest."""

    def __init__(self, law: Law, subject: Any, setting: Any) -> None:
        self.law, self.subject, self.setting = law, subject, setting
        self.told = 0
        self.last: Violation | None = None

    def __call__(self, case: Any) -> None:
        try:
            self.told += bool(self.law.statement(self.subject, self.setting, case))
        except Violation as violation:
            self.last = violation
            raise
        except Raised as error:  # a loss that raises on a legal batch breaks the law
            self.last = Violation("the loss raises an error", error.batch, str(error), "a number")
            raise self.last from error

    def survives(self, case: Any) -> bool:
        """Whether a single case passes."""
        try:
            self(case)
        except Violation:
            return False
        return True


def run(law: Law, subject: Any, setting: Any, seed: int = 0, examples: int = EXAMPLES) -> Verdict:
    """The verdict on one law; equal arguments, equal verdict."""
    if not law.needs <= setting.claims:
        return Verdict(law, Status.NOT_CLAIMED)
    trial = _Run(law, subject, setting)
    for case in law.anchors(setting):
        if not trial.survives(case):
            return Verdict(law, Status.BROKEN, trial.last, trial.told)
    found = _drawn(law, trial, seed, max(1, round(examples * law.effort)))
    if found is not None:
        return Verdict(law, Status.BROKEN, found, trial.told)
    return Verdict(law, Status.KEPT if trial.told else Status.VACUOUS, None, trial.told)


def _drawn(law: Law, trial: _Run, seed: int, examples: int) -> Violation | None:
    """Hypothesis's smallest counterexample, if there is any."""
    quiet = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        print_blob=False,
    )

    @seeded(seed)
    @quiet
    @given(case=law.cases(trial.setting))
    def tried(case: Any) -> None:
        trial(case)

    try:
        tried()
    except Violation as violation:
        return violation
    except Flaky:
        last = trial.last
        batch = None if last is None else last.batch
        return Violation("the same batch has two losses", batch, "another number each time", "a function of its arguments")
    return None
