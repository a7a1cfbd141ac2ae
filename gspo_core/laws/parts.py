"""Parts: micro-batches, ranks, packing and shards (theory G2, G5-G8)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gspo_core.layouts import Packed, Padded, sharded
from gspo_core.objective import policy_loss

from .batch import Batch
from .claim import Claim
from .compare import same_value, same_weight
from .law import Law, law
from .setting import Setting
from .strategies import batches, partitions
from .subject import Outcome, Subject

TWO = Batch.of([[0.0, 0.0], [0.0, 0.0]], [1.0, -2.0], [[1, 0], [1, 1]])


@law(
    "splitting the batch changes nothing",
    source="theory G5, G6; means of micro-batch means were trl#6024, verl#7321, ms-swift#10117",
    otherwise="the loss depends on how the batch was cut into micro-batches or ranks",
    needs={Claim.DENOMINATOR, Claim.JUDGED},
    cases=lambda setting: batches(setting, rows=(2, 4)).flatmap(lambda b: st.tuples(st.just(b), partitions(len(b.mask)))),
    anchors=lambda setting: [(TWO, [0, 1]), (TWO, [0, 2])],
)
def splitting(subject: Subject, setting: Setting, case: tuple[Batch, list[int]]) -> bool:
    """Any cut into parts, empty ones included, each with the whole batch's denominator: values and gradients add up."""
    batch, owner = case[0].poisoned(0.0), np.array(case[1])
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
    whole = Outcome(value, weight, found.eps, 4 * found.noise)
    note = f"rows in parts {case[1]}, each divided by {total:g}; the whole batch at once:"
    same_value(whole, expected.value, setting, batch, "the sum of the parts' losses", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(whole, expected.weight, setting, batch, "the parts' gradients", note)
    return len(set(case[1])) > 1


@law(
    "the number to divide by is what the sum is divided by",
    source="theory G5: no hidden factor; × dp_size was verl#5798, another / GA ms-swift#10117",
    otherwise="the denominator is ignored, or a second factor is hidden in the loss",
    needs={Claim.DENOMINATOR, Claim.JUDGED},
    cases=lambda setting: st.tuples(batches(setting), st.sampled_from([1.0, 2.0, 7.0])),
    anchors=lambda setting: [(Batch.of([[0.0]], [1.0]), 2.0)],
)
def divisor(subject: Subject, setting: Setting, case: tuple[Batch, float]) -> bool:
    """Value and gradient with denominator Z are count/Z times those with the batch's own count."""
    batch, given = case[0].poisoned(0.0), case[1]
    factor = setting.count(batch) / given
    expected, found = subject(batch), subject(replace(batch, denominator=given))
    wide = found._replace(noise=found.noise * max(1.0, factor))
    note = f"denominator {given:g}; what the loss says without, times {factor:g}:"
    same_value(wide, factor * expected.value, setting, replace(batch, denominator=given), "the loss", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(wide, factor * expected.weight, setting, batch, "the gradient", note)
    return bool(batch.mask.any()) and factor != 1


def _objective_loss(subject: Subject, batch: Batch, layout: Any, flat: Any) -> Outcome:
    """One of our objectives in another layout; `flat` takes token arrays there."""
    assert subject.objective is not None
    loss = policy_loss(subject.objective, flat(batch.logp), flat(batch.old_logp), batch.advantage, layout)
    return Outcome(float(loss.value), np.asarray(loss.logp_grad), 2.3e-16, 0.0)


@law(
    "packed is padded",
    source="theory G2; a packed row pooled as one sequence was Tunix#1662",
    otherwise="in a packed layout responses run into each other",
    needs={Claim.LAYOUTS},
    cases=batches,
    anchors=lambda setting: [TWO],
)
def packed(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """All rows one after another, masked slots belonging to nobody: same value, same gradients."""
    batch = batch.poisoned(np.nan)
    ids = np.where(batch.mask, np.arange(len(batch.mask))[:, None], -1).reshape(-1)
    found = _objective_loss(subject, batch, Packed(ids, len(batch.mask)), lambda x: x.reshape(-1))
    expected = subject(batch)
    same_value(found, expected.value, setting, batch, "the packed loss", "padded:")
    if setting.is_clear(batch, subject.kink):
        found = found._replace(weight=found.weight.reshape(batch.mask.shape))
        same_weight(found, expected.weight, setting, batch, "the packed gradient", "padded:")
    return bool((batch.lengths > 0).sum() > 1)


@law(
    "splitting a response over ranks changes nothing",
    source="theory D4, G7: (Σ d, |y|) is added up over ranks, nothing else",
    otherwise="every rank sees a response of its own",
    needs={Claim.LAYOUTS},
    cases=lambda setting: batches(setting, width=(2, 4)).flatmap(
        lambda b: st.tuples(st.just(b), st.integers(0, b.mask.shape[1]))
    ),
    anchors=lambda setting: [(TWO, 1)],
)
def shards(subject: Subject, setting: Setting, case: tuple[Batch, int]) -> bool:
    """Two ranks that hold the left and the right columns: the same value on both, each its own part of the gradient."""
    batch, cut = case[0].poisoned(0.0), case[1]
    expected = subject(batch)
    parts = [batch.columns(slice(0, cut)), batch.columns(slice(cut, None))]
    answers = _two_ranks(subject, parts)
    note = f"columns {cut} on belong to a second rank; on one rank:"
    for rank in (0, 1):
        same_value(answers[rank], expected.value, setting, batch, f"the loss on rank {rank}", note)
    if setting.is_clear(batch, subject.kink):
        joined = answers[0]._replace(weight=np.hstack([answers[0].weight, answers[1].weight]))
        same_weight(joined, expected.weight, setting, batch, "the ranks' gradients", note)
    return bool((parts[0].mask.any(axis=1) & parts[1].mask.any(axis=1)).any())


def _two_ranks(subject: Subject, parts: list[Batch]) -> list[Outcome]:
    """Both ranks in turn, over and over: what one asks to have summed is known once the other has asked for it, too."""
    asked: list[list[Any]] = [[], []]
    answers: list[Outcome] = []
    for _ in range(8):  # each round makes one more sum known; no objective needs more than a few
        before, asked = asked, [[], []]
        answers = [_on_rank(subject, part, asked[rank], before[1 - rank]) for rank, part in enumerate(parts)]
    return answers


def _on_rank(subject: Subject, part: Batch, asked: list[Any], others: list[Any]) -> Outcome:
    """One rank's answer, given what the other one asked to have summed in the round before."""

    def summed(x: Any) -> Any:
        asked.append(x)
        return x + others[len(asked) - 1] if len(asked) <= len(others) else x

    return _objective_loss(subject, part, sharded(Padded(part.mask), summed), lambda x: x)


PARTS: list[Law] = [splitting, divisor, packed, shards]
