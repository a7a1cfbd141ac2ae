"""From a wrong formula to causes: the broken laws that it breaks, too, and the others by their own names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from gspo_core.laws.kit.cause import Cause, smallest_first
from gspo_core.laws.kit.law import Severity
from gspo_core.laws.kit.runner import RAISES, LawVerdict, Status, run


class Wrong(NamedTuple):
    """What a function does, and the function that does it, as a subject of the same laws."""

    sentence: str
    fix: str
    model: Any
    """None if the sentence was measured, and explains whatever is left."""


def explained(found: Sequence[Wrong], verdicts: Sequence[LawVerdict], setting: Any, seed: int) -> tuple[Cause, ...]:
    """One cause for each wrong formula that breaks a broken law, and one for each law that none of them breaks."""
    left, causes = [v for v in verdicts if v.status is Status.BROKEN], list[Cause]()
    for wrong in found:
        follow = [
            v
            for v in left
            if wrong.model is None or run(v.law, wrong.model, setting, seed, shrink=False).status is Status.BROKEN
        ]
        if follow:
            causes.append(Cause(wrong.sentence, wrong.fix, Severity.WRONG, smallest_first(follow)))
            left = [v for v in left if v not in follow]
    return (*causes, *(_alone(v) for v in left))


def _alone(v: LawVerdict) -> Cause:
    """A law that nothing explains."""
    assert v.violation is not None
    raises = v.violation.what == RAISES
    said = f"the function raises {' '.join(str(v.violation.actual).split())}" if raises else f"not so: {v.law.name}"
    fix = "" if raises else f"A known mistake that breaks this law: {v.law.otherwise}"
    return Cause(said, fix, v.law.severity, (v,), known=False)
