"""Profile: measures what a loss computes, without any claim, and checks the laws of the nearest paper objective."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from gspo_core.laws.causes.measures import power_of_a_token
from gspo_core.laws.checking import check
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.names import Names
from gspo_core.laws.kit.report import Report
from gspo_core.laws.kit.runner import EXAMPLES
from gspo_core.laws.kit.subject import Framework, LossError, Subject
from gspo_core.laws.subjects import LossFunction, subject_of
from gspo_core.objectives.clipped_surrogates import Clip
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.presets import GRPO, GSPO, GSPO_TOKEN
from gspo_core.objectives.reductions import TokenMean

from . import measure
from .bounds import Edges, clip, edges
from .finding import ProfileFinding


@dataclass(frozen=True, eq=False)
class Profile:
    """The properties of a loss in words, and the laws that it keeps and breaks."""

    findings: tuple[ProfileFinding, ...]
    """The measured properties, in a fixed order."""
    report: Report
    """The laws of the nearest paper objective, with the clip range that was measured."""

    @property
    def differs(self) -> tuple[ProfileFinding, ...]:
        """The findings in which the loss differs from the paper."""
        return tuple(f for f in self.findings if not f.agrees)

    def __str__(self) -> str:
        """The findings, then the laws."""
        lines = [f"Measured properties of {self.report.subject} ({self.report.framework}):", ""]
        lines += [f"  {'same as the paper' if f.agrees else 'DIFFERENT'}: {f.sentence}." for f in self.findings]
        return "\n".join([*lines, "", f"Laws of {self.report.like}:", "", str(self.report)])

    def as_dict(self) -> dict[str, Any]:
        """Everything in plain types."""
        found = [{"topic": f.topic, "kind": f.kind, "agrees": f.agrees, "sentence": f.sentence} for f in self.findings]
        return {"findings": found, **self.report.as_dict()}

    def json(self) -> str:
        """As JSON."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False)


def profile(
    loss: Objective | LossFunction | Subject,
    like: Objective | None = None,
    seed: int = 0,
    *,
    without: Iterable[Claim] = (),
    framework: Framework | None = None,
    names: Names | None = None,
    empty_rows: bool = True,
    examples: int = EXAMPLES,
) -> Profile:
    """Measures what a loss computes, and how that differs from GSPO as in the paper.

    Measured are the weighting of responses, the ratio, the bounds of the clip for both signs of A, and the use of token
    advantages. Then the laws of the nearest paper objective are checked with the measured clip range: those of GRPO if every
    token has its own ratio, else of GSPO-token if each token gets its own advantage, else of GSPO. With `like`, its laws.

    A loss without a gradient has the first three measurements only. Other arguments as in `check`. Returns: `Profile` with
    `.findings`, `.differs` and `.report`; print it. Raises: TypeError if the loss cannot be called.

    >>> from gspo_core import GSPO, laws
    >>> [f.kind for f in laws.profile(GSPO, examples=3).findings]
    ['right', 'responses', 'ignored', 'sequence', 'mean', 'paper', 'refused']
    """
    subject = subject_of(loss, framework=framework, names=names, empty_rows=empty_rows)
    found = [_measured(question, subject) for question in (measure.sign, measure.weighting, measure.empty_rows)]
    seen = found[0].kind not in ("detached", "raises")
    sides = _edges(subject) if seen else NO_EDGES
    if seen:
        found += [_measured(measure.pooling, subject, sides), _measured(measure.exponent, subject, sides)]
        found += [clip(sides, like or GSPO), _measured(measure.credit, subject)]
    findings = tuple(found)
    kinds = {f.topic: f.kind for f in findings}
    unclipped = {Claim.CLIP, Claim.UNBOUNDED, Claim.KNOWN_FORMULA} if like is None and seen and not sides.widths else set()
    near = _nearest(kinds, sides) if like is None else like
    return Profile(findings, check(subject, near, seed, without={*without, *unclipped}, examples=examples))


NO_EDGES = Edges(None, None, None, None)


def _edges(subject: Subject) -> Edges:
    """The bounds; none if the loss raises an error far outside."""
    try:
        return edges(subject, power_of_a_token(subject))
    except LossError:
        return NO_EDGES


def _measured(question: Any, subject: Subject, *more: Edges) -> ProfileFinding:
    try:
        found: ProfileFinding = question(subject, *more)
    except LossError as error:
        return ProfileFinding(
            question.__name__,
            f"the measurement of its {question.__name__.replace('_', ' ')} failed: the loss raised {error}",
            "raises",
            False,
        )
    return found


def _nearest(kinds: dict[str, str], sides: Edges) -> Objective:
    """The paper's objective that the loss is compared with."""
    base = GSPO_TOKEN if kinds.get("token advantages") == "own" else GSPO
    if kinds.get("ratio") == "token":
        base = replace(GRPO, reduction=TokenMean()) if kinds.get("weighting") == "tokens" else GRPO
    widths = sides.widths
    return base if widths is None or not 0 <= widths[0] < 1 else replace(base, surrogate=Clip(*widths))
