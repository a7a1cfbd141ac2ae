"""Layouts: padded, packed, restricted and sharded layouts of the same tokens give the same loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import same_value, same_weight
from gspo_core.laws.kit.law import Law, demand, law
from gspo_core.laws.kit.names import Call, Inputs
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import any_batches
from gspo_core.laws.kit.subject import LossResult, Subject, loss_errors_on
from gspo_core.layouts.packed import Packed
from gspo_core.layouts.padded import Padded
from gspo_core.layouts.restricted import Restricted
from gspo_core.layouts.shards import sharded
from gspo_core.objectives.loss import Objective, policy_loss
from gspo_core.types import Layout, PerToken

TWO = Batch.of([[0.0, 0.0], [0.0, 0.0]], [1.0, -2.0], [[1, 0], [1, 1]])
NOTHING: list[tuple[Callable[..., Layout], tuple[int, ...], int]] = [
    (Padded, (0, 3), 0),
    (Padded, (2, 0), 2),
    (Padded, (0, 0), 0),
    (Packed, (4,), 0),
    (Packed, (0,), 2),
]
"""(layout, shape of its token arrays, N), none with a token."""


@lru_cache(maxsize=512)
def _call(objective: Objective, num: int, per_token: bool) -> Call:
    """The loss on packed arrays; one function for each N, so that JAX compiles it once."""

    def call(inputs: Inputs) -> Any:
        advantage = PerToken(inputs["advantage"]) if per_token else inputs["advantage"]
        layout = Packed(inputs["ids"], num)
        if "cu_seqlens" in inputs:
            layout = Packed.from_cu_seqlens(inputs["cu_seqlens"], inputs["logp"].shape[0], inputs["mask"])
        return policy_loss(objective, inputs["logp"], inputs["old_logp"], advantage, layout)

    return call


def _flat(subject: Subject, batch: Batch, order: Any, layout: dict[str, Any]) -> LossResult:
    """The loss with the N·T slots one after another in some order, and its gradient in the old order [N, T]."""
    assert subject.objective is not None
    names = {name: getattr(batch, name) for name in ("logp", "old_logp")}
    if batch.per_token:
        names["advantage"] = batch.advantage
    inputs = {name: x.reshape(-1)[order] for name, x in names.items()}
    call = _call(subject.objective, len(batch.mask), batch.per_token)
    with loss_errors_on(batch):
        found = subject.framework.evaluate(call, {"advantage": batch.advantage, **inputs, **layout})
    weight = np.zeros(batch.mask.size)
    weight[order] = found.weight
    return LossResult(float(found.value), weight.reshape(batch.mask.shape), 2.3e-16, 0.0)


def _compared(subject: Subject, setting: Setting, batch: Batch, found: LossResult, note: str) -> bool:
    expected = subject(batch)
    same_value(found, expected.value, setting, batch, "the loss", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(found, expected.weight, setting, batch, "the gradient", note)
    return bool((batch.lengths > 0).sum() > 1)


@law(
    "packed and padded layouts give the same loss",
    source="docs/theory.md, G2; a packed row treated as one sequence: Tunix#1662",
    otherwise="in a packed layout the tokens of different responses are mixed",
    needs={Claim.LAYOUTS},
    cases=lambda setting: st.tuples(any_batches(setting), st.integers(0, 99)),
    anchors=lambda setting: [(TWO, 0)],
)
def packed(subject: Subject, setting: Setting, case: tuple[Batch, int]) -> bool:
    """All slots one after another in any order; masked slots have the segment id −1, or one that is too large."""
    batch = case[0].with_padding(np.nan)
    order = np.random.default_rng(case[1]).permutation(batch.mask.size) if case[1] else np.arange(batch.mask.size)
    no_segment = -1 if case[1] % 2 == 0 else len(batch.mask) + 3
    ids = np.where(batch.mask, np.arange(len(batch.mask))[:, None], no_segment).reshape(-1)[order]
    found = _flat(subject, batch, order, {"ids": ids})
    return _compared(subject, setting, batch, found, "packed; required: the result on the padded batch")


@law(
    "cumulative lengths and padding give the same loss",
    source="docs/theory.md, G2: cu_seqlens as in attention kernels, with masked slots and an unused end",
    otherwise="sequences begin or end at other slots than given by their cumulative lengths",
    needs={Claim.LAYOUTS},
    cases=any_batches,
    anchors=lambda setting: [TWO],
    effort=0.5,
)
def cumulative(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Each row up to its last token, one after another; slots between tokens are masked, unused slots come last."""
    batch = batch.with_padding(np.nan)
    slots = np.arange(batch.mask.shape[1])
    spans = np.max(np.where(batch.mask, slots + 1, 0), axis=1, initial=0)
    order = np.argsort(~(slots < spans[:, None]).reshape(-1), kind="stable")
    layout = {"cu_seqlens": np.cumsum([0, *spans]), "mask": batch.mask.reshape(-1)[order], "ids": order}
    found = _flat(subject, batch, order, layout)
    return _compared(subject, setting, batch, found, "packed by cumulative lengths; required: the result on the padded batch")


@law(
    "a rejected token counts as a masked token",
    source="gspo_core.layouts.Restricted: the layout whose mask excludes the rejected tokens",
    otherwise="rejected tokens are still counted in a length or a mean",
    needs={Claim.LAYOUTS},
    cases=lambda setting: st.tuples(any_batches(setting), st.integers(0, 2**12 - 1)),
    anchors=lambda setting: [(TWO, 0b1101)],
    effort=0.5,
)
def restricted(subject: Subject, setting: Setting, case: tuple[Batch, int]) -> bool:
    """A restricted layout gives bitwise the same result as the smaller mask."""
    batch, bits = case
    kept = (np.array([bits >> (k % 12) & 1 for k in range(batch.mask.size)]).reshape(batch.mask.shape)) == 1
    small = replace(batch, mask=batch.mask & kept).with_padding(np.nan)
    found = _numpy(subject, small, Restricted(Padded(batch.mask), kept))
    expected = _numpy(subject, small, Padded(small.mask))
    for what, one, other in (("the loss", found.value, expected.value), ("the gradient", found.weight, expected.weight)):
        demand(one, other, 0.0, what, small, "restricted layout; required: the result with the smaller mask")
    return bool((batch.mask & ~kept).any() and small.mask.any())


@law(
    "splitting a response over ranks does not change the loss",
    source="docs/theory.md, D4 and G7: only (Σ d, |y|) is summed over ranks",
    otherwise="every rank treats its part of a response as a whole response",
    needs={Claim.LAYOUTS},
    cases=lambda setting: st.tuples(
        any_batches(setting, width=(2, 4)), st.lists(st.integers(0, 2), min_size=4, max_size=4), st.booleans()
    ),
    anchors=lambda setting: [(TWO, [0, 1, 1, 1], False), (TWO, [0, 2, 1, 0], True)],
)
def shards(subject: Subject, setting: Setting, case: tuple[Batch, list[int], bool]) -> bool:
    """Up to three ranks hold any of the columns, padded or packed: each has the whole value, and together the gradient."""
    batch, flat = case[0].with_padding(np.nan), case[2]
    owner = np.array(case[1][: batch.mask.shape[1]])
    columns = [np.flatnonzero(owner == rank) for rank in range(int(owner.max()) + 1)]
    parts = [batch.columns(own) for own in columns]
    results, expected = _all_ranks(subject, parts, flat), subject(batch)
    note = f"columns on ranks {owner.tolist()}{', packed' if flat else ''}; required: the result on one rank"
    whole = np.zeros(batch.mask.shape)
    for rank, (found, own) in enumerate(zip(results, columns, strict=True)):
        same_value(found, expected.value, setting, batch, f"the loss on rank {rank}", note)
        whole[:, own] = found.weight.reshape(len(batch.mask), len(own))
    if setting.is_clear(batch, subject.kink):
        same_weight(results[0]._replace(weight=whole), expected.weight, setting, batch, "the ranks' gradients", note)
    return sum(bool(part.mask.any()) for part in parts) > 1


def _all_ranks(subject: Subject, parts: list[Batch], flat: bool) -> list[LossResult]:
    """All ranks in turn, repeatedly: each round makes one more of their sums over ranks known."""
    terms: list[list[Any]] = [[] for _ in parts]
    results: list[LossResult] = []
    for _ in range(8):  # no objective needs more than a few sums over ranks
        before, terms = terms, [[] for _ in parts]
        results = [
            _on_rank(subject, part, flat, terms[rank], before[:rank] + before[rank + 1 :]) for rank, part in enumerate(parts)
        ]
    return results


def _on_rank(subject: Subject, part: Batch, flat: bool, terms: list[Any], others: list[list[Any]]) -> LossResult:
    """The result on one rank, given the terms that the other ranks summed in the round before."""

    def summed(x: Any) -> Any:
        terms.append(x)
        return x + sum(other[len(terms) - 1] for other in others if len(terms) <= len(other))

    ids = np.where(part.mask, np.arange(len(part.mask))[:, None], -1).reshape(-1)
    layout = sharded(Packed(ids, len(part.mask)) if flat else Padded(part.mask), summed)
    return _numpy(subject, part, layout)


def _numpy(subject: Subject, batch: Batch, layout: Layout) -> LossResult:
    """The objective in NumPy on any layout, whatever the framework of the subject."""
    assert subject.objective is not None
    logp, old = (x.reshape(layout.shape) for x in (batch.logp, batch.old_logp))
    advantage = PerToken(batch.advantage.reshape(layout.shape)) if batch.per_token else batch.advantage
    with loss_errors_on(batch):
        loss = policy_loss(subject.objective, logp, old, advantage, layout)
    return LossResult(float(loss.value), np.asarray(loss.logp_grad), 2.3e-16, 0.0)


@law(
    "a layout without a token has loss 0",
    source="docs/theory.md, G4: no responses, no columns, or masked slots only, as on a rank without work",
    otherwise="a rank or a micro-batch without tokens raises an error, or gives NaN",
    needs={Claim.LAYOUTS},
    cases=lambda setting: st.sampled_from(NOTHING),
    anchors=lambda setting: list(NOTHING),
    effort=0.05,
)
def nothing(subject: Subject, setting: Setting, case: tuple[Callable[..., Layout], tuple[int, ...], int]) -> bool:
    """Value 0 and gradient 0, in every layout."""
    make, shape, num = case
    layout = make(np.full(shape, -1), num) if make is Packed else make(np.zeros(shape, dtype=bool))
    empty = Batch(*(np.full((num, 0), np.nan),) * 2, np.full(num, np.nan), np.zeros((num, 0), dtype=bool))
    assert subject.objective is not None
    with loss_errors_on(empty):
        loss = policy_loss(subject.objective, np.full(shape, np.nan), np.full(shape, np.nan), np.full(num, np.nan), layout)
    demand(loss.value, 0.0, 0.0, f"the loss of a {make.__name__} layout of shape {list(shape)}", empty)
    demand(loss.logp_grad, np.zeros(shape), 0.0, "its gradient", empty)
    return True


LAYOUTS: list[Law] = [packed, cumulative, restricted, shards, nothing]
