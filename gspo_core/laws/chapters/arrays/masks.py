"""Masks: the contents of padding, the positions of tokens, and rows without tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import TOKEN_ARRAYS, Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import same_value, same_weight, zero
from gspo_core.laws.kit.law import Law, Severity, demand, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import PADDING_VALUES, any_batches, batches
from gspo_core.laws.kit.subject import NeverGiven, Subject


def _needs_empty_rows(subject: Subject) -> None:
    """Raises NeverGiven for a loss that is never given a row without a token."""
    if not subject.names.empty_rows:
        raise NeverGiven("rows without a token are left out of every call")


def _padding_has_no_effect(subject: Subject, setting: Setting, batch: Batch, value: float) -> bool:
    if batch.mask.all():
        return False
    clean, dirty = batch.with_padding(0.0), batch.with_padding(value)
    expected, found = subject(clean), subject(dirty)
    note = f"masked slots of every input hold {value:g}; required: the result with 0 there"
    same_value(found, expected.value, setting, clean, "the loss", note)
    if setting.is_clear(clean, subject.kink):
        same_weight(found, expected.weight, setting, clean, "the gradient", note)
    return True


UNEVEN = [Batch.of([[0.1, 0.3, 0.0], [0.7, 0.0, 0.2]], [-1.0, -0.3], [[1, 1, 0], [1, 0, 1]], base=-1.1)]
ONE_TOKEN = [Batch.of([[0.0, 0.0]], [1.0], [[1, 0]])]


@law(
    "finite numbers in padding do not change the loss",
    source="docs/theory.md, G1; GSPO eq. 5 and 7 sum over the tokens of y_i",
    otherwise="masked slots are counted",
    cases=lambda setting: st.tuples(batches(setting), st.sampled_from([1.0, -2.0])),
    anchors=lambda setting: [(batch, 1.0) for batch in ONE_TOKEN],
)
def padding(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """Finite numbers in the masked slots of every input leave value and gradient unchanged."""
    return _padding_has_no_effect(subject, setting, *case)


@law(
    "NaN or infinity in padding does not change the loss",
    source="docs/theory.md, G1: select with `where` before subtracting, because 0 · NaN is NaN: WeatherGenerator#2717",
    otherwise="masks by multiplication, which turns NaN and infinity in padding into a NaN loss",
    cases=lambda setting: st.tuples(batches(setting), st.sampled_from(PADDING_VALUES[1:])),
    anchors=lambda setting: [(batch, np.nan) for batch in ONE_TOKEN],
    severity=Severity.FRAGILE,
)
def poison(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """NaN, ±∞ and ±1e30 in the masked slots of every input leave value and gradient unchanged."""
    return _padding_has_no_effect(subject, setting, *case)


@law(
    "the contents of padding do not change a single bit of the result",
    source="docs/theory.md, G1, as a guarantee of this package: bitwise the same result for any contents of masked slots",
    otherwise="the contents of padding change the rounding, or cancel between inputs only",
    needs={Claim.INERT},
    cases=lambda setting: st.tuples(
        any_batches(setting),
        st.sampled_from(PADDING_VALUES),
        st.sampled_from([(), ("logp",), ("old_logp",), ("advantage",)]),
        st.sampled_from([np.float64, np.float32]),
    ),
    anchors=lambda setting: [(batch, p, (), t) for batch in UNEVEN for p in (np.nan, 1.0) for t in (np.float64, np.float32)],
)
def bits(subject: Subject, setting: Setting, case: tuple[Batch, float, tuple[str, ...], Any]) -> bool:
    """Value, gradient and reported fields in float64 and float32, for padding in every input or in one input alone."""
    batch, value, alone, dtype = case
    if batch.mask.all():
        return False
    clean, dirty = batch.with_padding(0.0), batch.with_padding(value)
    if alone:
        dirty = replace(clean, **{name: getattr(dirty, name) for name in alone})
    expected, found = subject(clean, dtype=dtype), subject(dirty, dtype=dtype)
    note = f"{', '.join(alone) or 'every input'} holds {value:g} in masked slots, {dtype.__name__}; required: as with 0 there"
    for name in ("value", "weight", "log_ratio", "clipped"):
        if getattr(expected, name) is not None:
            demand(getattr(found, name), getattr(expected, name), 0.0, name, clean, note)
    zero(found, ~batch.mask, setting, clean, "the gradient in masked slots", note)
    return True


@law(
    "numbers in the padding of token advantages do not change the loss",
    source="docs/theory.md, G1; masked advantages that enter a mean: AReaL#1346",
    otherwise="advantages of masked slots are counted",
    needs={Claim.TOKEN_ADVANTAGES},
    cases=lambda setting: st.tuples(batches(setting, per_token=True), st.sampled_from([1.0, -2.0])),
    anchors=lambda setting: [(Batch.of([[0.0, 0.0]], [[1.0, 0.0]], [[1, 0]]), 1.0)],
)
def advantage_padding(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """Finite numbers in masked slots, with one advantage per token."""
    return _padding_has_no_effect(subject, setting, *case)


@law(
    "a masked slot has no gradient",
    source="docs/theory.md, G1",
    otherwise="tokens that the policy did not produce have a gradient",
    needs={Claim.OWN_GRADIENT},
    cases=batches,
    anchors=lambda setting: ONE_TOKEN,
)
def masked_slots(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """∂loss/∂logp is exactly 0 in masked slots."""
    zero(subject(batch.with_padding(0.0)), ~batch.mask, setting, batch, "the gradient in masked slots")
    return not bool(batch.mask.all())


@law(
    "more padding does not change the loss",
    source="docs/theory.md, G2; the padded width as the length: OpenRLHF#1252, Soup#744",
    otherwise="the loss uses the padded width as the length",
    cases=lambda setting: st.tuples(batches(setting), st.integers(1, 3)),
    anchors=lambda setting: [(Batch.of([[0.0]], [1.0]), 1)],
)
def more_padding(subject: Subject, setting: Setting, case: tuple[Batch, int]) -> bool:
    """Masked columns appended on the right leave value and gradient unchanged."""
    batch, extra = case[0].with_padding(0.0), case[1]
    wide = _widened(batch, extra)
    expected, found = subject(batch), subject(wide)
    note = f"masked columns appended: {extra}; required: the result without them"
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
    "the positions of a response's tokens do not matter",
    source="docs/theory.md, G2 and G3: tool output inside a response is masked, and |y_i| is the sum of the mask",
    otherwise="masked slots between tokens are counted: the length is a span",
    cases=batches,
    anchors=lambda setting: [Batch.of([[0.0, 0.0, 0.0]], [1.0], [[1, 0, 1]])],
)
def position(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Moving the tokens of each response to the left, in order, leaves the value unchanged and moves the gradients along."""
    batch = batch.with_padding(0.0)
    order = np.argsort(~batch.mask, axis=1, kind="stable")

    def moved(x: Any) -> Any:
        return np.take_along_axis(x, order, axis=1)

    names = [name for name in ("logp", "old_logp", "mask") if getattr(batch, name) is not None]
    left = replace(batch, **{name: moved(getattr(batch, name)) for name in names})
    expected, found = subject(left), subject(batch)
    note = "required: the result with the tokens moved to the left"
    same_value(found, expected.value, setting, batch, "the loss", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(replace_weight(found, moved), expected.weight, setting, batch, "the gradient", note)
    return bool((order != np.arange(batch.mask.shape[1])).any())


def replace_weight(outcome: Any, change: Any) -> Any:
    """The outcome with its weight rearranged."""
    return outcome._replace(weight=change(outcome.weight))


@law(
    "an empty row contributes nothing",
    source="docs/theory.md, G4; an empty row with ratio 1 and loss −A: trl#6095; empty rows in the denominator: trl#6369",
    otherwise="rows without a token are counted",
    cases=lambda setting: batches(setting, advantages=[1.0, -1.0, 2.0]),
    anchors=lambda setting: [Batch.of([[0.0], [0.0]], [1.0, 1.0], [[1], [0]])],
)
def empty_rows(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Value and gradient are those of the batch without its empty rows."""
    _needs_empty_rows(subject)
    batch = batch.with_padding(0.0)
    full = batch.mask.any(axis=1)
    if full.all() or not full.any():
        return False
    kept = batch.rows(full)
    expected, found = subject(kept), subject(replace(batch, advantage=np.where(full, batch.advantage, 1.0)))
    same_value(found, expected.value, setting, batch, "the loss", "required: the result without the empty rows")
    if setting.is_clear(kept, subject.kink):
        weight = np.zeros(batch.mask.shape)
        weight[full] = expected.weight
        same_weight(found, weight, setting, batch, "the gradient", "required: the result without the empty rows")
    return True


@law(
    "a batch without tokens has loss 0",
    source="docs/theory.md, G4",
    otherwise="a micro-batch whose rows are all masked gives NaN, or a loss",
    cases=batches,
    anchors=lambda setting: [Batch.of([[0.0]], [1.0], [[0]])],
    effort=0.2,
)
def nothing(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Value 0, gradient 0, no NaN."""
    _needs_empty_rows(subject)
    none = replace(batch, mask=np.zeros_like(batch.mask)).with_padding(0.0)
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
