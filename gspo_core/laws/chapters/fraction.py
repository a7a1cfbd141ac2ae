"""Laws of clip fractions: functions (logp, old_logp, advantage, mask) -> number (theory E3)."""

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
from gspo_core.laws.kit.subject import Raised


@dataclass(frozen=True, eq=False)
class ClipFraction:
    """A clip fraction under test."""

    name: str
    fn: Callable[..., Any]
    per_token: bool = False
    """Whether it says that it counts tokens; else responses."""
    convert: Callable[[Any], Any] = np.asarray
    """From a NumPy array to the function's own."""

    def __call__(self, batch: Batch) -> Any:
        """The number."""
        try:
            with np.errstate(all="ignore"):
                return np.asarray(self.fn(*map(self.convert, (batch.logp, batch.old_logp, batch.advantage, batch.mask))))
        except Exception as error:  # whatever a metric raises
            raise Raised(batch, error) from error

    def units(self, batch: Batch) -> float:
        """What a fraction of this batch is a fraction of."""
        return float(batch.mask.sum() if self.per_token else batch.mask.any(axis=1).sum())

    def counted(self, setting: Setting, batch: Batch) -> float:
        """Clipped units, by the scalar oracle; a clipped response counts with all its tokens where tokens are counted."""
        clipped = np.array(setting.verdict(batch).clipped, dtype=bool)
        if clipped.ndim == 1 and self.per_token:
            clipped = clipped[:, None] & batch.mask
        return float(clipped.sum() if self.per_token or clipped.ndim == 1 else clipped.any(axis=1).sum())


@law(
    "the clip fraction counts the units that have an advantage and no gradient",
    source="theory E3; (N, 1) times (N,) was NeMo-RL#3753, a fraction of 2.0 from padding ROLL's token mean",
    otherwise="counts padding, units that are live on their other side, units without an advantage, or pairs",
    cases=batches,
    anchors=lambda setting: [
        Batch.of([[2 * setting.log_bounds[1]], [0.0]], [1.0, -1.0]),
        Batch.of([[2 * setting.log_bounds[1]], [0.0]], [1.0, -1.0], [[1], [0]]),
        Batch.of([[-2 * setting.log_bounds[1]]], [1.0]),
    ],
)
def counts(subject: ClipFraction, setting: Setting, batch: Batch) -> bool:
    """Clipped units by all units, in scalar loops."""
    units = subject.units(batch)
    if not units or not setting.is_clear(batch, 1e-9):
        return False
    demand(subject(batch.poisoned(0.0)), subject.counted(setting, batch) / units, 1e-6, "the clip fraction", batch)
    return subject.counted(setting, batch) > 0


@law(
    "fractions of parts, weighted by what they count, are the whole's",
    source="need 9: a mean of means was trl#6380",
    otherwise="the number is a mean of means: it depends on how units are grouped",
    cases=lambda setting: batches(setting, rows=(2, 3)).flatmap(lambda b: st.tuples(st.just(b), partitions(len(b.mask), 2))),
    anchors=lambda setting: [
        (Batch.of([[2 * setting.log_bounds[1]] * 2, [0.0] * 2], [1.0, 1.0], [[1, 0], [1, 1]]), [0, 1]),
    ],
)
def merges(subject: ClipFraction, setting: Setting, case: tuple[Batch, list[int]]) -> bool:
    """Σ units_p · fraction_p = units · fraction, for any cut into parts."""
    batch, owner = case[0].poisoned(0.0), np.array(case[1])
    parts = [batch.rows(owner == part) for part in set(case[1])]
    if not all(subject.units(part) for part in parts) or len(parts) < 2:
        return False
    total = sum(subject.units(part) * float(subject(part)) for part in parts)
    note = f"rows in parts {case[1]}; their fractions, weighted:"
    demand(subject(batch), total / subject.units(batch), 1e-6, "the clip fraction", batch, note)
    return True


@law(
    "padding never reaches the clip fraction",
    source="theory G1",
    otherwise="padding is counted",
    cases=lambda setting: st.tuples(batches(setting), st.sampled_from([1.0, float("nan"), float("inf")])),
    anchors=lambda setting: [(Batch.of([[0.0, 0.0]], [1.0], [[1, 0]]), 1.0)],
)
def padded(subject: ClipFraction, setting: Setting, case: tuple[Batch, float]) -> bool:
    """Anything in masked slots of any input."""
    batch, poison = case
    if not batch.mask.any() or batch.mask.all():
        return False
    note = f"masked slots hold {poison:g}; with 0 there:"
    demand(subject(batch.poisoned(poison)), subject(batch.poisoned(0.0)), 1e-6, "the clip fraction", batch, note)
    return True


FRACTION_LAWS: tuple[Law, ...] = (counts, merges, padded)
