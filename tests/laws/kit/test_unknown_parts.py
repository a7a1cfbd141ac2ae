"""A surrogate, gate or ratio without a formula in the kit is checked as far as possible, and the report names the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from gspo_core import GSPO, Objective, Sequence, SequenceMean, Token, TokenMean, laws
from gspo_core.laws.chapters.catalogue import named
from gspo_core.objectives import Gain, Gated, Unclipped

KNOWN_FORMULA = {"the value is the paper's", "the gradient is the paper's"}
EVERYWHERE = {
    "packed and padded layouts give the same loss",
    "the contents of padding do not change a single bit of the result",
    "splitting a response over ranks does not change the loss",
}
DERIVATIVE = "the gradient is the derivative of the value"


@dataclass(frozen=True)
class Hinge:
    """A(1 + x) up to |x| = wide, half as steep beyond: kinks at numbers of its own."""

    exact: ClassVar[bool] = True
    wide: float = 0.37

    def __call__(self, xp: Any, x: Any, a: Any) -> Gain:
        far = xp.abs(x) > self.wide
        return Gain(a * (1 + xp.where(far, 0.5 * (x + self.wide * xp.sign(x)), x)), a * xp.where(far, 0.5, 1.0))


@dataclass(frozen=True)
class Steeper(Hinge):
    """A slope that is wrong beyond the kink, and only there."""

    def __call__(self, xp: Any, x: Any, a: Any) -> Gain:
        gain = super().__call__(xp, x, a)
        return gain._replace(slope=xp.where(xp.abs(x) > self.wide, 0.51 * a, gain.slope))


@dataclass(frozen=True)
class OfTheBatch:
    """A gain that looks at the other units."""

    exact: ClassVar[bool] = True

    def __call__(self, xp: Any, x: Any, a: Any) -> Gain:
        gain = Unclipped()(xp, x, a)
        largest = xp.max(xp.abs(a)) if a.size else 1.0
        return Gain(gain.value * largest, gain.slope * largest)


@dataclass(frozen=True)
class Shut:
    """A gate: tokens beyond a bound count as unmoved, and are closed."""

    bound: float = 0.6

    def __call__(self, d: Any, advantage: Any, layout: Any, per_token: bool) -> Gated:
        far = layout.xp.abs(d) > self.bound
        return Gated(layout.xp.where(far, 0.0, d), advantage, layout.valid & ~far)


@dataclass(frozen=True)
class Ajar(Shut):
    """The same gate, which forgets to close."""

    def __call__(self, d: Any, advantage: Any, layout: Any, per_token: bool) -> Gated:
        return super().__call__(d, advantage, layout, per_token)._replace(open=layout.valid)


@dataclass(frozen=True)
class Half(Sequence):
    """A ratio: the root of the response's."""

    def push_forward(self, d: Any, layout: Any) -> Any:
        return 0.5 * super().push_forward(d, layout)

    def log_ratio(self, d: Any, layout: Any) -> Any:
        return 0.5 * super().log_ratio(d, layout)

    def pull_back(self, g: Any, layout: Any) -> Any:
        return 0.5 * super().pull_back(g, layout)


def names(verdicts: tuple[laws.LawVerdict, ...]) -> set[str]:
    """Of their laws."""
    return {v.law.name for v in verdicts}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "word"),
    [
        (Objective(Sequence(), Hinge(), SequenceMean()), "Hinge is the intended gain"),
        (Objective(Token(), Hinge(), TokenMean()), "Hinge is the intended gain"),
        (Objective(Sequence(), Unclipped(), SequenceMean(), Shut()), "Shut is the intended gate"),
    ],
    ids=["surrogate of responses", "surrogate of tokens", "gate"],
)
def test_kinks_of_its_own_raise_no_false_alarm_and_nearly_everything_is_judged(objective: Objective, word: str) -> None:
    report = laws.check(objective, examples=8)
    assert not report.broken, str(report)
    assert names(report.kept) >= KNOWN_FORMULA | EVERYWHERE
    assert word in str(report)
    assert [word in sentence for sentence in report.unchecked] == [True]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "law"),
    [
        (Objective(Sequence(), Steeper(), SequenceMean()), DERIVATIVE),
        (Objective(Sequence(), OfTheBatch(), SequenceMean()), "a response does not change the gradients of the others"),
        (Objective(Sequence(), Unclipped(), SequenceMean(), Ajar()), DERIVATIVE),
    ],
    ids=["slope wrong beyond its kink", "not elementwise", "gate that stays open"],
)
def test_mistakes_in_what_the_kit_has_never_seen_are_found(objective: Objective, law: str) -> None:
    assert law in names(laws.check(objective, laws=[named(law)]).broken)


@pytest.mark.slow
def test_a_ratio_that_has_no_loops_is_compared_with_differences_and_with_itself() -> None:
    report = laws.check(Objective(Half(), Unclipped(), SequenceMean()), examples=10)
    assert names(report.kept) >= EVERYWHERE | {DERIVATIVE}
    assert not names(report.kept) & KNOWN_FORMULA
    assert "Half with SequenceMean has no scalar formula" in report.unchecked[0]
    assert not report.broken, str(report)


@pytest.mark.slow
def test_what_the_kit_knows_is_not_taken_on_trust() -> None:
    report = laws.check(GSPO, examples=3)
    assert report.unchecked == ()
    assert "Not checked" not in str(report)
