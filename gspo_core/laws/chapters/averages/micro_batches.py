"""Micro-batches, and data-parallel ranks: parts with the denominator of the whole batch add up to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import same_value, same_weight
from gspo_core.laws.kit.law import Law, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import batches, partitions
from gspo_core.laws.kit.subject import LossResult, Subject

TWO = Batch.of([[0.0, 0.0], [0.0, 0.0]], [1.0, -2.0], [[1, 0], [1, 1]])


@law(
    "splitting the batch into parts does not change the loss",
    source="docs/theory.md, G5 and G6; means of micro-batch means: trl#6024, verl#7321, ms-swift#10117",
    otherwise="the loss depends on the cut into micro-batches or ranks",
    needs={Claim.DENOMINATOR, Claim.KNOWN_FORMULA},
    cases=lambda setting: batches(setting, rows=(2, 4)).flatmap(lambda b: st.tuples(st.just(b), partitions(len(b.mask)))),
    anchors=lambda setting: [(TWO, [0, 1]), (TWO, [0, 2])],
)
def splitting(subject: Subject, setting: Setting, case: tuple[Batch, list[int]]) -> bool:
    """Any parts, empty ones included, each with the denominator of the whole batch: values and gradients add up."""
    batch, owner = case[0].with_padding(0.0), np.array(case[1])
    if not batch.mask.any():
        return False
    total = setting.count(batch)
    expected = subject(replace(batch, denominator=None))
    value, weight, found = 0.0, np.zeros(batch.mask.shape), expected
    for part in range(int(owner.max()) + 1):
        mine = owner == part
        found = subject(replace(batch.rows(mine), denominator=total)) if mine.any() else found._replace(value=0.0)
        value += found.value
        weight[mine] = found.weight if mine.any() else weight[mine]
    whole = LossResult(value, weight, found.eps, 4 * found.noise)
    note = f"rows in parts {case[1]}, each divided by {total:g}; required: the result on the whole batch"
    same_value(whole, expected.value, setting, batch, "the sum of the parts' losses", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(whole, expected.weight, setting, batch, "the parts' gradients", note)
    return len(set(case[1])) > 1


@law(
    "the loss is divided by the given denominator",
    source="docs/theory.md, G5; a factor dp_size: verl#5798; divided again by accumulation steps: ms-swift#10117",
    otherwise="the denominator is ignored, or the loss contains another factor",
    needs={Claim.DENOMINATOR, Claim.KNOWN_FORMULA},
    cases=lambda setting: st.tuples(batches(setting), st.sampled_from([1.0, 2.0, 7.0])),
    anchors=lambda setting: [(Batch.of([[0.0]], [1.0]), 2.0)],
)
def divisor(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """With denominator Z, value and gradient are count/Z times those with the batch's own count."""
    batch, given = case[0].with_padding(0.0), case[1]
    factor = setting.count(batch) / given
    expected, found = subject(batch), subject(replace(batch, denominator=given))
    wide = found._replace(noise=found.noise * max(1.0, factor))
    note = f"denominator {given:g}; required: the result without one, times {factor:g}"
    same_value(wide, factor * expected.value, setting, replace(batch, denominator=given), "the loss", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(wide, factor * expected.weight, setting, batch, "the gradient", note)
    return bool(batch.mask.any()) and factor != 1


MICRO_BATCHES: list[Law] = [splitting, divisor]
