"""Clip fractions: functions (logp, old_logp, advantage, mask) ↦ the share of clipped responses or tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.law import Law, demand, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import batches, partitions
from gspo_core.laws.kit.subject import LossError


@dataclass(frozen=True, eq=False)
class ClipFractionFunction:
    """A clip fraction under test."""

    name: str
    fn: Callable[..., Any]
    per_token: bool = False
    """Whether it is a fraction of tokens, else of responses."""
    convert: Callable[[Any], Any] = np.asarray
    """From a NumPy array to the arrays that the function expects."""

    def __call__(self, batch: Batch) -> Any:
        """The fraction on a batch."""
        try:
            with np.errstate(all="ignore"):
                return np.asarray(self.fn(*map(self.convert, (batch.logp, batch.old_logp, batch.advantage, batch.mask))))
        except (Exception, SystemExit) as error:  # whatever the function under test raises
            raise LossError(batch, error) from error

    def units(self, batch: Batch) -> float:
        """Number of tokens or of non-empty responses of a batch, the denominator of the fraction."""
        return float(batch.mask.sum() if self.per_token else batch.mask.any(axis=1).sum())

    def counted(self, setting: Setting, batch: Batch) -> float:
        """Number of clipped units by the scalar oracle; in a fraction of tokens, a clipped response counts all its tokens."""
        clipped = np.array(setting.expected(batch).clipped, dtype=bool)
        if clipped.ndim == 1 and self.per_token:
            clipped = clipped[:, None] & batch.mask
        return float(clipped.sum() if self.per_token or clipped.ndim == 1 else clipped.any(axis=1).sum())


@law(
    "the clip fraction counts the units that have an advantage and no gradient",
    source="docs/theory.md, E3; (N, 1) times (N,): NeMo-RL#3753; a fraction of 2.0 from counted padding: ROLL",
    otherwise="the fraction counts padding, units that have a gradient, units without an advantage, or pairs of responses",
    cases=batches,
    anchors=lambda setting: [
        Batch.of([[2 * setting.log_bounds[1]], [0.0]], [1.0, -1.0]),
        Batch.of([[2 * setting.log_bounds[1]], [0.0]], [1.0, -1.0], [[1], [0]]),
        Batch.of([[-2 * setting.log_bounds[1]]], [1.0]),
    ],
)
def counts(subject: ClipFractionFunction, setting: Setting, batch: Batch) -> bool:
    """The number of clipped units, by the scalar oracle, divided by the number of units."""
    units = subject.units(batch)
    if not units or not setting.is_clear(batch, 1e-9):
        return False
    demand(subject(batch.with_padding(0.0)), subject.counted(setting, batch) / units, 1e-6, "the clip fraction", batch)
    return subject.counted(setting, batch) > 0


@law(
    "the fractions of parts, weighted by their counts, give the fraction of the whole",
    source="trl#6380, a mean of means",
    otherwise="the fraction is a mean of means: it depends on how units are grouped",
    cases=lambda setting: batches(setting, rows=(2, 3)).flatmap(lambda b: st.tuples(st.just(b), partitions(len(b.mask), 2))),
    anchors=lambda setting: [
        (Batch.of([[2 * setting.log_bounds[1]] * 2, [0.0] * 2], [1.0, 1.0], [[1, 0], [1, 1]]), [0, 1]),
    ],
)
def merges(subject: ClipFractionFunction, setting: Setting, case: tuple[Batch, list[int]]) -> bool:
    """Σ units_p · fraction_p = units · fraction, for any cut into parts."""
    batch, owner = case[0].with_padding(0.0), np.array(case[1])
    parts = [batch.rows(owner == part) for part in set(case[1])]
    if not all(subject.units(part) for part in parts) or len(parts) < 2:
        return False
    total = sum(subject.units(part) * float(subject(part)) for part in parts)
    note = f"rows in parts {case[1]}; required: the weighted mean of their fractions"
    demand(subject(batch), total / subject.units(batch), 1e-6, "the clip fraction", batch, note)
    return True


@law(
    "the contents of padding do not change the clip fraction",
    source="docs/theory.md, G1",
    otherwise="padding is counted, or turns the fraction into NaN",
    cases=lambda setting: st.tuples(batches(setting), st.sampled_from([1.0, float("nan"), float("inf")])),
    anchors=lambda setting: [(Batch.of([[0.0, 0.0]], [1.0], [[1, 0]]), 1.0)],
)
def padded(subject: ClipFractionFunction, setting: Setting, case: tuple[Batch, float]) -> bool:
    """Any number, NaN or infinity in the masked slots of every input leaves the fraction unchanged."""
    batch, value = case
    if not batch.mask.any() or batch.mask.all():
        return False
    note = f"masked slots hold {value:g}; required: the result with 0 there"
    demand(subject(batch.with_padding(value)), subject(batch.with_padding(0.0)), 1e-6, "the clip fraction", batch, note)
    return True


FRACTION_LAWS: tuple[Law, ...] = (counts, merges, padded)
