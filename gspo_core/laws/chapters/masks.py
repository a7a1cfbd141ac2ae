"""Masks: where tokens stand, and what stands where none do (theory G1-G4)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import TOKEN_ARRAYS, Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import same_value, same_weight, zero
from gspo_core.laws.kit.law import Law, demand, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import POISONS, any_batches, batches
from gspo_core.laws.kit.subject import Subject


def _poisoned(subject: Subject, setting: Setting, batch: Batch, poison: float) -> bool:
    if batch.mask.all():
        return False
    clean, dirty = batch.poisoned(0.0), batch.poisoned(poison)
    expected, found = subject(clean), subject(dirty)
    note = f"masked slots of every input hold {poison:g}; with 0 there:"
    same_value(found, expected.value, setting, clean, "the loss", note)
    if setting.is_clear(clean, subject.kink):
        same_weight(found, expected.weight, setting, clean, "the gradient", note)
    return True


UNEVEN = [Batch.of([[0.1, 0.3, 0.0], [0.7, 0.0, 0.2]], [-1.0, -0.3], [[1, 1, 0], [1, 0, 1]], base=-1.1)]
ONE_TOKEN = [Batch.of([[0.0, 0.0]], [1.0], [[1, 0]])]


@law(
    "padding never reaches the loss",
    source="theory G1; GSPO eq. 5 sums over the tokens of y_i",
    otherwise="what stands in masked slots is counted",
    cases=lambda setting: st.tuples(batches(setting), st.sampled_from([1.0, -2.0])),
    anchors=lambda setting: [(batch, 1.0) for batch in ONE_TOKEN],
)
def padding(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """Any finite number in a masked slot of any input leaves value and gradient as they are."""
    return _poisoned(subject, setting, *case)


@law(
    "not even NaN or infinity in padding reaches the loss",
    source="theory G1: select with `where` before subtracting; 0 · NaN is NaN",
    otherwise="masks by multiplying, which turns NaN and infinity in padding into NaN",
    cases=lambda setting: st.tuples(batches(setting), st.sampled_from(POISONS[1:])),
    anchors=lambda setting: [(batch, np.nan) for batch in ONE_TOKEN],
)
def poison(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """NaN, ±∞ and ±1e30 in masked slots of every input leave value and gradient as they are."""
    return _poisoned(subject, setting, *case)


@law(
    "padding does not change a bit",
    source="design section 4: whatever stands in masked slots, of one input or of all, the result is bitwise the same",
    otherwise="what stands in padding reaches the rounding, or hides where another input's padding cancels it",
    needs={Claim.INERT},
    cases=lambda setting: st.tuples(
        any_batches(setting),
        st.sampled_from(POISONS),
        st.sampled_from([(), ("logp",), ("old_logp",), ("advantage",)]),
        st.sampled_from([np.float64, np.float32]),
    ),
    anchors=lambda setting: [(batch, p, (), t) for batch in UNEVEN for p in (np.nan, 1.0) for t in (np.float64, np.float32)],
)
def bits(subject: Subject, setting: Setting, case: tuple[Batch, float, tuple[str, ...], Any]) -> bool:
    """Value, gradient and whatever else is reported, in both precisions; all inputs are poisoned, or one of them alone."""
    batch, poison, alone, dtype = case
    if batch.mask.all():
        return False
    clean, dirty = batch.poisoned(0.0), batch.poisoned(poison)
    if alone:
        dirty = replace(clean, **{name: getattr(dirty, name) for name in alone})
    expected, found = subject(clean, dtype=dtype), subject(dirty, dtype=dtype)
    note = f"{', '.join(alone) or 'every input'} holds {poison:g} in masked slots, {dtype.__name__}; with 0 there:"
    for name in ("value", "weight", "log_ratio", "clipped"):
        if getattr(expected, name) is not None:
            demand(getattr(found, name), getattr(expected, name), 0.0, name, clean, note)
    zero(found, ~batch.mask, setting, clean, "the gradient in masked slots", note)
    return True


@law(
    "padding of token advantages never reaches the loss",
    source="theory G1; masked advantages that enter a mean were AReaL#1346",
    otherwise="advantages of masked slots are counted",
    needs={Claim.TOKEN_ADVANTAGES},
    cases=lambda setting: st.tuples(batches(setting, per_token=True), st.sampled_from([1.0, -2.0])),
    anchors=lambda setting: [(Batch.of([[0.0, 0.0]], [[1.0, 0.0]], [[1, 0]]), 1.0)],
)
def advantage_padding(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """As above, with one advantage per token."""
    return _poisoned(subject, setting, *case)


@law(
    "a masked slot has no gradient",
    source="theory G1",
    otherwise="pushes tokens that the policy did not produce",
    needs={Claim.OWN_GRADIENT},
    cases=batches,
    anchors=lambda setting: ONE_TOKEN,
)
def masked_slots(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """∂loss/∂logp is exactly 0 there."""
    zero(subject(batch.poisoned(0.0)), ~batch.mask, setting, batch, "the gradient in masked slots")
    return not bool(batch.mask.all())


@law(
    "more padding changes nothing",
    source="theory G2; lengths that are widths were OpenRLHF#1252, Soup#744",
    otherwise="takes the padded width for the length",
    cases=lambda setting: st.tuples(batches(setting), st.integers(1, 3)),
    anchors=lambda setting: [(Batch.of([[0.0]], [1.0]), 1)],
)
def more_padding(subject: Subject, setting: Setting, case: tuple[Batch, int]) -> bool:
    """Masked columns on the right: same value, same gradient."""
    batch, extra = case[0].poisoned(0.0), case[1]
    wide = _widened(batch, extra)
    expected, found = subject(batch), subject(wide)
    note = f"{extra} masked columns appended; without them:"
    same_value(found, expected.value, setting, batch, "the loss", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(found, np.pad(expected.weight, ((0, 0), (0, extra))), setting, batch, "the gradient", note)
    return bool(batch.mask.any())


def _widened(batch: Batch, extra: int) -> Batch:
    def pad(x: Any) -> Any:
        return np.pad(x, ((0, 0), (0, extra)))

    arrays = {name: pad(x) for name in TOKEN_ARRAYS if (x := getattr(batch, name)) is not None}
    return replace(
        batch, mask=pad(batch.mask), advantage=pad(batch.advantage) if batch.per_token else batch.advantage, **arrays
    )


@law(
    "it does not matter where a response's tokens stand",
    source="theory G2, G3: holes are tool output, |y_i| is the sum of the mask",
    otherwise="takes a span for the length, or counts holes as tokens",
    cases=batches,
    anchors=lambda setting: [Batch.of([[0.0, 0.0, 0.0]], [1.0], [[1, 0, 1]])],
)
def position(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """The tokens of each response moved to the left, in order: same value, gradients move along."""
    batch = batch.poisoned(0.0)
    order = np.argsort(~batch.mask, axis=1, kind="stable")

    def moved(x: Any) -> Any:
        return np.take_along_axis(x, order, axis=1)

    names = [name for name in ("logp", "old_logp", "mask") if getattr(batch, name) is not None]
    left = replace(batch, **{name: moved(getattr(batch, name)) for name in names})
    expected, found = subject(left), subject(batch)
    note = "with the tokens moved to the left, the loss says what the law says:"
    same_value(found, expected.value, setting, batch, "the loss", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(replace_weight(found, moved), expected.weight, setting, batch, "the gradient", note)
    return bool((order != np.arange(batch.mask.shape[1])).any())


def replace_weight(outcome: Any, change: Any) -> Any:
    """The outcome with its weight rearranged."""
    return outcome._replace(weight=change(outcome.weight))


@law(
    "an empty row contributes nothing",
    source="theory G4; ratio 1 and −A for masked rows was trl#6095, the diluted mean trl#6369",
    otherwise="rows without a token are counted",
    cases=lambda setting: batches(setting, advantages=[1.0, -1.0, 2.0]),
    anchors=lambda setting: [Batch.of([[0.0], [0.0]], [1.0, 1.0], [[1], [0]])],
)
def empty_rows(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Value and gradient are those of the batch without its empty rows."""
    batch = batch.poisoned(0.0)
    full = batch.mask.any(axis=1)
    if full.all() or not full.any():
        return False
    kept = batch.rows(full)
    expected, found = subject(kept), subject(replace(batch, advantage=np.where(full, batch.advantage, 1.0)))
    same_value(found, expected.value, setting, batch, "the loss", "without the empty rows:")
    if setting.is_clear(kept, subject.kink):
        weight = np.zeros(batch.mask.shape)
        weight[full] = expected.weight
        same_weight(found, weight, setting, batch, "the gradient", "without the empty rows:")
    return True


@law(
    "a batch without tokens has loss 0",
    source="theory G4",
    otherwise="a micro-batch whose rows are all masked gives NaN, or a loss",
    cases=batches,
    anchors=lambda setting: [Batch.of([[0.0]], [1.0], [[0]])],
    effort=0.2,
)
def nothing(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Value 0, gradient 0, no NaN."""
    none = replace(batch, mask=np.zeros_like(batch.mask)).poisoned(0.0)
    found = subject(none)
    demand(found.value, 0.0, 0.0, "the loss of a batch whose slots are all masked", none)
    demand(found.weight, np.zeros(none.mask.shape), 0.0, "its gradient", none)
    return True


MASKS: list[Law] = [
    padding,
    poison,
    bits,
    advantage_padding,
    masked_slots,
    more_padding,
    position,
    empty_rows,
    nothing,
]
