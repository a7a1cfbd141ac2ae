"""Runs one law on one loss: first its anchors, then random cases; keeps the smallest counterexample.

There is at least one random case, unless an anchor could have broken the law already.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Flaky

from .law import Law, Violation
from .subject import CompilerRefusal, LossError, Untestable

RAISES = "the loss raises an error"
"""What is wrong with a loss that raises on a legal batch."""
EXAMPLES = 60
"""Random cases per law, by default."""


class Status(Enum):
    """The result of running a law."""

    KEPT = "holds"
    BROKEN = "broken"
    NOT_CLAIMED = "not claimed"
    UNTESTED = "untested: no case could have broken it"
    REFUSED = "untested: the compiler refuses the loss"
    NEVER_GIVEN = "untested: the loss is never given such a batch"


@dataclass(frozen=True, eq=False)
class LawVerdict:
    """A law, and the result of running it on a loss."""

    law: Law
    status: Status
    violation: Violation | None = None
    """The smallest counterexample, if the law is broken."""
    cases: int = 0
    """Number of cases that could have broken it."""
    refusal: str = ""
    """Why the law could not be tested: the compiler's first line, or which batches the loss is never given."""


def size(violation: Violation) -> tuple[int, int]:
    """(sequences, tokens per sequence) of a counterexample."""
    sequences, tokens = violation.batch.mask.shape
    return int(sequences), int(tokens)


class _Run:
    """A law during its run; keeps the last violation, which after shrinking is the smallest."""

    def __init__(self, law: Law, subject: Any, setting: Any) -> None:
        self.law, self.subject, self.setting = law, subject, setting
        self.cases = 0
        self.last: Violation | None = None
        self.refusal: Untestable | None = None

    def __call__(self, case: Any) -> None:
        try:
            self.cases += bool(self.law.statement(self.subject, self.setting, case))
        except Violation as violation:
            self.last = violation
            raise
        except Untestable as refusal:
            self.refusal = refusal
        except LossError as error:  # a loss that raises on a legal batch breaks the law
            self.last = Violation(RAISES, error.batch, str(error), "a number")
            raise self.last from error

    def survives(self, case: Any) -> bool:
        """Whether one case passes."""
        try:
            self(case)
        except Violation:
            return False
        return True


def run(law: Law, subject: Any, setting: Any, seed: int = 0, examples: int = EXAMPLES, *, shrink: bool = True) -> LawVerdict:
    """The verdict of one law; equal arguments give equal verdicts. Without `shrink` a counterexample may be large."""
    if not law.needs <= setting.claims:
        return LawVerdict(law, Status.NOT_CLAIMED)
    trial = _Run(law, subject, setting)
    for case in law.anchors(setting):
        if not trial.survives(case):
            return LawVerdict(law, Status.BROKEN, trial.last, trial.cases)
    if trial.refusal:
        return LawVerdict(law, _untestable(trial.refusal), None, trial.cases, str(trial.refusal))
    draws = max(round(examples * law.effort), 0 if trial.cases else 1)
    found = _drawn(law, trial, seed, draws, shrink) if draws else None
    if found is not None:
        return LawVerdict(law, Status.BROKEN, found, trial.cases)
    if trial.refusal:
        return LawVerdict(law, _untestable(trial.refusal), None, trial.cases, str(trial.refusal))
    return LawVerdict(law, Status.KEPT if trial.cases else Status.UNTESTED, None, trial.cases)


def _untestable(refusal: Untestable) -> Status:
    return Status.REFUSED if isinstance(refusal, CompilerRefusal) else Status.NEVER_GIVEN


def _drawn(law: Law, trial: _Run, seed: int, examples: int, shrink: bool) -> Violation | None:
    """Hypothesis's counterexample, the smallest if it may shrink; None if there is none."""
    quiet = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        print_blob=False,
    )

    @seeded(seed)
    @quiet
    @given(case=law.cases(trial.setting))
    def one_case(case: Any) -> None:
        trial(case)

    try:
        one_case()
    except Violation as violation:
        return violation
    except Flaky:
        last = trial.last
        batch = None if last is None else last.batch
        return Violation(
            "two calls with the same batch return different losses",
            batch,
            "a different number each time",
            "a function of its arguments",
        )
    return None
