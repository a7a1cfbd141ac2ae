"""Profile: states nothing about a loss, and finds out what it does and which laws hold."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from gspo_core.laws.checking import Loss, check, subject_of
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.report import Report
from gspo_core.laws.kit.runner import EXAMPLES
from gspo_core.laws.kit.subject import Framework, Names, Raised, Subject
from gspo_core.objectives.clipped_surrogates import Clip
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.presets import GRPO, GSPO, GSPO_TOKEN
from gspo_core.objectives.reductions import TokenMean

from . import measure
from .measure import Finding


@dataclass(frozen=True, eq=False)
class Profile:
    """What a loss does, in words, and the laws that it keeps and breaks."""

    findings: tuple[Finding, ...]
    """What was measured."""
    report: Report
    """The laws of the paper's objective that is nearest, with the loss's own band."""

    @property
    def differs(self) -> tuple[Finding, ...]:
        """Findings in which the loss is not the paper's."""
        return tuple(f for f in self.findings if not f.agrees)

    def __str__(self) -> str:
        """Differences first, then the laws."""
        lines = [f"What {self.report.subject} does ({self.report.framework}):", ""]
        lines += [f"  {'same as the paper' if f.agrees else 'DIFFERENT'}: {f.says}." for f in self.findings]
        return "\n".join([*lines, "", f"Which laws of {self.report.like} hold:", "", str(self.report)])

    def as_dict(self) -> dict[str, Any]:
        """Everything in plain types."""
        found = [{"topic": f.topic, "kind": f.kind, "agrees": f.agrees, "says": f.says} for f in self.findings]
        return {"findings": found, **self.report.as_dict()}

    def json(self) -> str:
        """As JSON."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False)


def profile(
    loss: Objective | Loss | Subject,
    seed: int = 0,
    *,
    framework: Framework | None = None,
    names: Names | None = None,
    examples: int = EXAMPLES,
) -> Profile:
    """Finds out what a loss computes, and how that differs from GSPO as in the paper.

    It is asked for its weighting of responses, its ratio, its band on all four sides, its use of token advantages, and
    then for the laws of the nearest paper objective: GRPO if every token has its own ratio, else GSPO-token if token
    advantages are taken, else GSPO; each with the band that was measured.

    Arguments as in `check`. Raises: TypeError if the loss cannot be called.

    >>> from gspo_core import GSPO, laws
    >>> [f.kind for f in laws.profile(GSPO, examples=3).findings]
    ['right', 'responses', 'ignored', 'sequence', 'mean', 'paper', 'refused']
    """
    subject = subject_of(loss, framework=framework, names=names)
    asked = (measure.sign, measure.weighting, measure.empty_rows, measure.pooling, measure.exponent)
    found = {f.topic: f for f in (_answer(question, subject) for question in asked)}
    try:
        sides = measure.edges(subject)
    except Raised:
        sides = measure.Edges(None, None, None, None)
    findings = (*found.values(), measure.clip(sides), _answer(measure.credit, subject))
    kinds = {f.topic: f.kind for f in findings}
    like = _nearest(kinds, sides)
    without = set() if sides.widths else {Claim.CLIP, Claim.UNBOUNDED, Claim.JUDGED}
    return Profile(findings, check(subject, like, seed, without=without, examples=examples))


def _answer(question: Any, subject: Subject) -> Finding:
    try:
        found: Finding = question(subject)
    except Raised as error:
        return Finding(question.__name__, f"asked for its {question.__name__}, it raises {error}", "raises", False)
    return found


def _nearest(kinds: dict[str, str], sides: measure.Edges) -> Objective:
    """The paper's objective that the loss is compared with."""
    base = GSPO if kinds["token advantages"] == "refused" else GSPO_TOKEN
    if kinds.get("ratio") == "token":
        base = replace(GRPO, reduction=TokenMean()) if kinds.get("weighting") == "tokens" else GRPO
    widths = sides.widths
    return base if widths is None or not 0 <= widths[0] < 1 else replace(base, surrogate=Clip(*widths))
