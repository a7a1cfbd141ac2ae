"""A suspect: a formula that differs from the right one in one point, in words and as a model that can be evaluated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gspo_core.laws.kit.batch import Batch, Floats
from gspo_core.laws.kit.frameworks import NUMPY
from gspo_core.laws.kit.law import Severity
from gspo_core.laws.kit.names import Call
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import LossResult, Subject
from gspo_core.objectives.loss import Objective

EPS = float(np.finfo(np.float64).eps)
STEP = 2.0**-17
"""Step of differences of a model's value."""
LARGEST = 64
"""Slots up to which the gradient is taken by differences; that of a larger batch is not compared."""
SLACK = 1e-8
"""Relative error of a gradient by these differences."""


def _same_objective(objective: Objective) -> Objective:
    return objective


def _same_batch(batch: Batch) -> Batch:
    return batch


def _ones(batch: Batch) -> Floats:
    return np.ones(len(batch.mask))


def _at_tokens(factor: Floats) -> Floats:
    """[N] as [N, 1]."""
    return factor if factor.ndim == 2 else factor[:, None]


def _nothing(batch: Batch) -> float:
    return 0.0


@dataclass(frozen=True)
class Suspect:
    """One difference from a formula. The model computes the formula of `objective` on `batch`, one response at a time."""

    sentence: str
    """What the loss does."""
    fix: str
    """What to change."""
    objective: Callable[[Objective], Objective] = _same_objective
    """The objective that it computes instead."""
    batch: Callable[[Batch], Batch] = _same_batch
    """The batch that it computes it on instead, of the same shape."""
    chain: Callable[[Batch], Floats] = _ones
    """[N] or [N, T] ∂(token log ratio in that batch)/∂(token log ratio), or another factor of the gradient alone."""
    factor: Callable[[Batch], Floats] = _ones
    """[N] by which each response's value and gradient are multiplied."""
    slope: float = 1.0
    """Factor of the gradient alone."""
    added: Callable[[Batch], float] = _nothing
    """Added to the value."""
    severity: Severity = Severity.WRONG
    """How bad it is."""
    by_row: Callable[[Objective, Batch, int], Objective] | None = None
    """The objective of one response, for one that depends on the whole batch or on the response's length."""
    by_differences: bool = False
    """Whether the model's gradient is taken by differences of its value: for a `batch` that mixes tokens or responses."""

    def evaluate(self, setting: Setting, batch: Batch) -> LossResult:
        """Value and gradient of the model."""
        found = self._formula(setting, batch)
        if not self.by_differences:
            return found
        if batch.mask.size > LARGEST:
            return found._replace(noise=1.0)
        return found._replace(weight=self._differences(setting, batch), noise=SLACK)

    def _differences(self, setting: Setting, batch: Batch) -> Floats:
        """[N, T] fourth-order central differences of the model's value."""
        weight = np.zeros(batch.mask.shape)

        def at(index: Any, by: float) -> float:
            moved = batch.logp.copy()
            moved[index] += by
            return self._formula(setting, replace(batch, logp=moved)).value

        for index in zip(*np.nonzero(batch.mask), strict=True):
            near, far = (at(index, k * STEP) - at(index, -k * STEP) for k in (1, 2))
            weight[index] = (8 * near - far) / (12 * STEP)
        return weight

    def _formula(self, setting: Setting, batch: Batch) -> LossResult:
        seen = self.batch(batch)
        n = batch.denominator or setting.count(seen)
        wrong = replace(setting, like=self.objective(setting.like))
        factor, chain, weight, value = self.factor(batch), self.chain(batch), np.zeros(batch.mask.shape), self.added(batch)
        for i in np.flatnonzero(seen.mask.any(axis=1)):
            own = wrong if self.by_row is None else replace(wrong, like=self.by_row(wrong.like, seen, int(i)))
            row = own.expected(replace(seen.rows(slice(i, i + 1)), denominator=n))
            value += factor[i] * row.value
            weight[i] = self.slope * factor[i] * chain[i] * np.array(row.weight[0])
        return LossResult(float(value), weight, EPS, 0.0)

    def and_also(self, other: Suspect) -> Suspect:
        """Both differences at once."""
        return Suspect(
            f"{self.sentence}; and {other.sentence}",
            f"{self.fix}; and {other.fix}",
            lambda objective: other.objective(self.objective(objective)),
            lambda batch: other.batch(self.batch(batch)),
            lambda batch: _at_tokens(self.chain(batch)) * _at_tokens(other.chain(self.batch(batch))),
            lambda batch: self.factor(batch) * other.factor(batch),
            self.slope * other.slope,
            lambda batch: self.added(batch) + other.added(batch),
            by_row=other.by_row if self.by_row is None else self.by_row,
            by_differences=self.by_differences or other.by_differences,
        )


@dataclass(frozen=True)
class OfResponses(Suspect):
    """A difference with one advantage per response; with token advantages the formula is right."""

    def evaluate(self, setting: Setting, batch: Batch) -> LossResult:
        """Value and gradient of the model."""
        return Suspect("", "").evaluate(setting, batch) if batch.per_token else super().evaluate(setting, batch)


@dataclass(frozen=True, eq=False)
class Model(Subject):
    """A suspect as a subject, so that laws can be run on it."""

    suspect: Suspect | None = None
    setting: Setting | None = None

    def __call__(self, batch: Batch, dtype: Any = None, other: Call | None = None) -> LossResult:
        """Value and gradient of the model, in float64."""
        assert self.suspect is not None
        assert self.setting is not None
        model = functools.partial(self.suspect.evaluate, self.setting)
        try:
            with np.errstate(all="ignore"):
                return self.on_given_rows(model, batch)
        except OverflowError:  # exp of a wrong ratio, in scalar Python
            return LossResult(np.inf, np.full(batch.mask.shape, np.inf), EPS, 0.0)

    def value(self, batch: Batch) -> LossResult:
        """The same."""
        return self(batch)

    def leaks(self, batch: Batch) -> dict[str, Floats]:
        """None: the model has no graph."""
        return {}

    def changed(self, batch: Batch) -> tuple[str, ...]:
        """None: the model writes nothing."""
        return ()


def model_of(suspect: Suspect, subject: Subject, setting: Setting) -> Model:
    """The model, with the argument names of a loss."""
    return Model(suspect.sentence, _uncallable, NUMPY, subject.names, None, True, suspect=suspect, setting=setting)


def _uncallable(inputs: Any) -> Any:
    raise TypeError("a model is evaluated on batches and has no call on arrays")
