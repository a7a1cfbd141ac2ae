"""What is wrong with the denominator that a loss is given, by its losses of one and of two responses."""

from __future__ import annotations

from dataclasses import replace

from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import LossError, Subject

from .nearness import near

ONE = Batch.of([[0.0]], [-2.0])
"""A single token."""
TWO = Batch.of([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [-2.0, -2.0], [[1, 1, 1], [1, 0, 0]])
"""Two responses of three tokens and one."""


def denominator(subject: Subject, setting: Setting) -> Suspect | None:
    """What the loss does with a denominator; None if that is none of what is known here."""
    try:
        one = [_factor(subject, setting, ONE, z) for z in (2.0, 5.0)]
        small = _factor(subject, setting, ONE, 1.0)
        two = [_factor(subject, setting, TWO, z) for z in (2.0, 5.0)]
        count = _factor(subject, setting, TWO, setting.count(TWO))
    except LossError:
        return None
    if all(near(factor, z) for factor, z in zip(one, (2.0, 5.0), strict=True)):
        words = "the given denominator is ignored: every micro-batch is divided by its own count"
        return Suspect(words, "divide the sum by the denominator that is passed")
    if near(one[0], 1.0) and not near(small, 1.0):
        words = f"a denominator of 1 is not used as it is: the sum is divided by {1 / small:.6g} in its place"
        return Suspect(words, "divide the sum by the denominator that is passed, as it is")
    if near(one[0], one[1]) and not near(one[0], 1.0) and all(near(x, one[0]) for x in (*two, count)):
        words = f"with a denominator the loss is {one[0]:.6g} times the sum divided by it"
        fix = "divide by the denominator alone: not by the number of ranks or accumulation steps, too"
        return Suspect(words, fix)
    if all(near(x, 1.0) for x in one) and near(two[0], two[1]) and not near(two[0], 1.0):
        words = f"the denominator is changed by what is in the batch: two responses are divided by {1 / two[0]:.6g} times it"
        return Suspect(words, "divide the sum by the denominator that is passed, as it is")
    return None


def _factor(subject: Subject, setting: Setting, batch: Batch, given: float) -> float:
    """The loss with a denominator, divided by what it should be."""
    asked = replace(batch, denominator=given)
    return subject.value(asked).value / setting.expected(asked).value
