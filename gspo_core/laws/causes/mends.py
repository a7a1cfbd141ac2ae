"""Mended losses: the loss under test with one difference undone, for differences that have no model of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.names import Call
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import LossResult, Subject

EPS = float(np.finfo(np.float64).eps)
COARSE = 3e-9
"""Unit of rounding at which a relative difference of a millionth is within the error budgets of the laws."""

Ask = Callable[[Batch], LossResult]
"""The loss, on a batch."""


@dataclass(frozen=True, eq=False)
class Mended(Subject):
    """A loss whose result is changed before it is judged."""

    mend: Callable[[Ask, Batch], LossResult] | None = None
    near: float = 0.0
    """Distance from a bound at which units are not judged."""

    def __call__(self, batch: Batch, dtype: Any = None, other: Call | None = None) -> LossResult:
        """The mended result."""
        assert self.mend is not None
        ask = super().__call__
        return self.mend(lambda asked: ask(asked, dtype, other), batch)

    def value(self, batch: Batch) -> LossResult:
        """The mended value."""
        assert self.mend is not None
        return self.mend(super().value, batch)

    @property
    def kink(self) -> float:
        """At least `near`."""
        return max(super().kink, self.near)


def _mended(subject: Subject, mend: Callable[[Ask, Batch], LossResult], near: float = 0.0) -> Mended:
    return Mended(**{f.name: getattr(subject, f.name) for f in fields(Subject)}, mend=mend, near=near)


def coarse(subject: Subject) -> Mended:
    """The loss with error budgets of a millionth."""

    def mend(ask: Ask, batch: Batch) -> LossResult:
        found = ask(batch)
        return found._replace(eps=max(found.eps, COARSE))

    return _mended(subject, mend, 1e-5)


def with_value_of(subject: Subject, setting: Setting) -> Mended:
    """The loss with the value of the formula; the gradient stays its own."""
    return _mended(subject, lambda ask, batch: ask(batch)._replace(value=setting.expected(batch).value))


def guarded(subject: Subject) -> Mended:
    """The loss with value and gradient 0 where no slot holds a token."""

    def mend(ask: Ask, batch: Batch) -> LossResult:
        return ask(batch) if batch.mask.any() else LossResult(0.0, np.zeros(batch.mask.shape), EPS, 0.0)

    return _mended(subject, mend)


def without_empty_rows(subject: Subject) -> Subject:
    """The loss of the rows that have a token."""
    return replace(subject, names=replace(subject.names, empty_rows=False))


def without_constant_term(subject: Subject) -> Mended:
    """The loss minus what it is with advantages of 0."""

    def mend(ask: Ask, batch: Batch) -> LossResult:
        found, silent = ask(batch), ask(replace(batch, advantage=np.zeros(batch.advantage.shape)))
        return found._replace(value=found.value - silent.value, weight=found.weight - silent.weight)

    return _mended(subject, mend)


def constant_term(subject: Subject) -> str:
    """What the term is that is left with advantages of 0: measured on one token, by what moves it."""

    def ask(logp: float, old: float) -> LossResult:
        return subject(Batch(np.array([[logp]]), np.array([[old]]), np.zeros(1), np.ones((1, 1), dtype=bool)))

    plain, staler, lower = ask(-1.0, -1.0), ask(-1.0, -1.5), ask(-1.5, -1.5)
    if max(abs(x.value) for x in (plain, staler, lower)) <= 1e-9:
        return "a term for longer responses, which single tokens have not: something is added to their loss or their advantage"
    floor = 1e-9 + 1e3 * plain.noise
    pulls = [float(ask(x, x).weight[0, 0]) for x in (-1.0, -1.5, -0.3)]
    if abs(staler.value - plain.value) > 1e-9:
        sign = "keeps the policy at" if staler.weight[0, 0] > 0 else "pushes the policy away from"
        return f"a term that compares log π with log π_old, and {sign} the old policy"
    if abs(lower.value - plain.value) <= 1e-9:
        return "a constant"
    if max(map(abs, pulls)) <= floor:
        return "a term of log π that is detached"
    if min(pulls) < -floor and max(pulls) > floor:
        return "a term of log π alone, which makes some sampled tokens rarer and others likelier, as −π log π does"
    rarer = max(pulls) > floor
    return f"a term of log π alone, which makes all sampled tokens {'rarer, as an entropy bonus does' if rarer else 'likelier'}"
