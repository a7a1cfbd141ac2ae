"""pytest: one test for each law that applies to a loss."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from gspo_core.objectives.loss import Objective
from gspo_core.objectives.presets import GSPO

from .causes.search import causes
from .chapters.catalogue import LAWS
from .kit.claim import Claim
from .kit.law import Law, Severity
from .kit.names import Names
from .kit.report import indented
from .kit.runner import EXAMPLES, Status, run
from .kit.setting import Setting
from .kit.subject import Framework, Subject
from .subjects import LossFunction, subject_of


def conformance(
    loss: Objective | LossFunction | Subject,
    like: Objective = GSPO,
    seed: int = 0,
    *,
    claims: Iterable[Claim] = (),
    without: Iterable[Claim] = (),
    framework: Framework | None = None,
    names: Names | None = None,
    empty_rows: bool = True,
    examples: int = EXAMPLES,
    severity: Severity = Severity.WRONG,
) -> Callable[[Callable[..., Any]], Callable[[Law], None]]:
    """A decorator that turns a function into one pytest test per law that applies.

        @laws.conformance(my_loss, like=GSPO)
        def test_my_loss(law): ...

    The tests have the name of the function, whose body is not run, and the id `Law.slug`, so that `pytest -k padding` selects
    laws. A broken law fails with its cause, its counterexample and both numbers; a law that could not be tested
    (`Report.untested`) is skipped, and says why. A broken law whose cause is less severe than `severity` is an expected failure
    (xfail). Other arguments as in `check`; needs pytest.
    """
    subject = subject_of(loss, framework=framework, names=names, empty_rows=empty_rows)
    setting = Setting(like, (subject.claims(like) | set(claims)) - set(without))
    claimed = [law for law in LAWS if law.needs <= setting.claims]
    pytest: Any = importlib.import_module("pytest")

    def expanded(function: Callable[..., Any]) -> Callable[[Law], None]:
        def test(law: Law) -> None:
            verdict = run(law, subject, setting, seed, examples)
            if verdict.violation is not None:
                (cause,) = causes(subject, setting, [verdict], seed)
                said = f"{law.name}\n  {cause.sentence}.\n{indented(str(verdict.violation))}"
                if cause.severity >= severity:
                    pytest.fail(said, pytrace=False)
                pytest.xfail(said)
            if verdict.status is not Status.KEPT:
                pytest.skip(f"{verdict.status.value}. {verdict.refusal}".removesuffix(". "))

        test.__name__, test.__qualname__, test.__module__ = function.__name__, function.__qualname__, function.__module__
        test.__doc__ = function.__doc__
        marked: Callable[[Law], None] = pytest.mark.parametrize("law", claimed, ids=[law.slug for law in claimed])(test)
        return marked

    return expanded
