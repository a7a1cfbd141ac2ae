"""Layouts: wherever its tokens stand and whoever holds them, it is the same loss (theory D4, G2, G4, G7)."""

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
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import any_batches
from gspo_core.laws.kit.subject import Call, Inputs, Outcome, Subject, blamed_on
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
"""(layout, shape of its token arrays, N) without a token."""


@lru_cache(maxsize=512)
def _call(objective: Objective, num: int, per_token: bool) -> Call:
    """The loss on packed arrays; one function for each N, so that what compiles it does so once."""

    def call(inputs: Inputs) -> Any:
        advantage = PerToken(inputs["advantage"]) if per_token else inputs["advantage"]
        layout = Packed(inputs["ids"], num)
        if "cu_seqlens" in inputs:
            layout = Packed.from_cu_seqlens(inputs["cu_seqlens"], inputs["logp"].shape[0], inputs["mask"])
        return policy_loss(objective, inputs["logp"], inputs["old_logp"], advantage, layout)

    return call


def _flat(subject: Subject, batch: Batch, order: Any, layout: dict[str, Any]) -> Outcome:
    """The loss with the N·T slots one after another in some order; its gradient at their old places."""
    assert subject.objective is not None
    names = {name: getattr(batch, name) for name in ("logp", "old_logp")}
    if batch.per_token:
        names["advantage"] = batch.advantage
    inputs = {name: x.reshape(-1)[order] for name, x in names.items()}
    call = _call(subject.objective, len(batch.mask), batch.per_token)
    with blamed_on(batch):
        found = subject.framework.outcome(call, {"advantage": batch.advantage, **inputs, **layout})
    weight = np.zeros(batch.mask.size)
    weight[order] = found.weight
    return Outcome(float(found.value), weight.reshape(batch.mask.shape), 2.3e-16, 0.0)


def _compared(subject: Subject, setting: Setting, batch: Batch, found: Outcome, note: str) -> bool:
    expected = subject(batch)
    same_value(found, expected.value, setting, batch, "the loss", note)
    if setting.is_clear(batch, subject.kink):
        same_weight(found, expected.weight, setting, batch, "the gradient", note)
    return bool((batch.lengths > 0).sum() > 1)


@law(
    "packed is padded",
    source="theory G2; a packed row pooled as one sequence was Tunix#1662",
    otherwise="in a packed layout responses run into each other",
    needs={Claim.LAYOUTS},
    cases=lambda setting: st.tuples(any_batches(setting), st.integers(0, 99)),
    anchors=lambda setting: [(TWO, 0)],
)
def packed(subject: Subject, setting: Setting, case: tuple[Batch, int]) -> bool:
    """All slots one after another in any order, masked ones belonging to nobody (−1, or a number too large)."""
    batch = case[0].poisoned(np.nan)
    order = np.random.default_rng(case[1]).permutation(batch.mask.size) if case[1] else np.arange(batch.mask.size)
    nobody = -1 if case[1] % 2 == 0 else len(batch.mask) + 3
    ids = np.where(batch.mask, np.arange(len(batch.mask))[:, None], nobody).reshape(-1)[order]
    found = _flat(subject, batch, order, {"ids": ids})
    return _compared(subject, setting, batch, found, "packed; padded the loss says what the law says:")


@law(
    "cumulative lengths are segments",
    source="theory G2: cu_seqlens, as attention kernels have them, holes and an empty end included",
    otherwise="sequences begin or end in another place than their cumulative lengths say",
    needs={Claim.LAYOUTS},
    cases=any_batches,
    anchors=lambda setting: [TWO],
    effort=0.5,
)
def cumulative(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Each row up to its last token, one after another, holes masked; what is left over stands at the end."""
    batch = batch.poisoned(np.nan)
    slots = np.arange(batch.mask.shape[1])
    spans = np.max(np.where(batch.mask, slots + 1, 0), axis=1, initial=0)
    order = np.argsort(~(slots < spans[:, None]).reshape(-1), kind="stable")
    layout = {"cu_seqlens": np.cumsum([0, *spans]), "mask": batch.mask.reshape(-1)[order], "ids": order}
    found = _flat(subject, batch, order, layout)
    return _compared(subject, setting, batch, found, "by cumulative lengths; padded the loss says what the law says:")


@law(
    "a rejected token is a masked token",
    source="design: a restricted layout is the layout whose mask lacks what was rejected",
    otherwise="rejected tokens are still counted in a length or a mean",
    needs={Claim.LAYOUTS},
    cases=lambda setting: st.tuples(any_batches(setting), st.integers(0, 2**12 - 1)),
    anchors=lambda setting: [(TWO, 0b1101)],
    effort=0.5,
)
def restricted(subject: Subject, setting: Setting, case: tuple[Batch, int]) -> bool:
    """Any mask, of which some tokens are kept; the same to the bit."""
    batch, bits = case
    kept = (np.array([bits >> (k % 12) & 1 for k in range(batch.mask.size)]).reshape(batch.mask.shape)) == 1
    small = replace(batch, mask=batch.mask & kept).poisoned(np.nan)
    found = _numpy(subject, small, Restricted(Padded(batch.mask), kept))
    expected = _numpy(subject, small, Padded(small.mask))
    for what, one, other in (("the loss", found.value, expected.value), ("the gradient", found.weight, expected.weight)):
        demand(one, other, 0.0, what, small, "restricted; with the smaller mask the loss says what the law says:")
    return bool((batch.mask & ~kept).any() and small.mask.any())


@law(
    "splitting a response over ranks changes nothing",
    source="theory D4, G7: (Σ d, |y|) is added up over ranks, nothing else",
    otherwise="every rank sees a response of its own",
    needs={Claim.LAYOUTS},
    cases=lambda setting: st.tuples(
        any_batches(setting, width=(2, 4)), st.lists(st.integers(0, 2), min_size=4, max_size=4), st.booleans()
    ),
    anchors=lambda setting: [(TWO, [0, 1, 1, 1], False), (TWO, [0, 2, 1, 0], True)],
)
def shards(subject: Subject, setting: Setting, case: tuple[Batch, list[int], bool]) -> bool:
    """Up to three ranks hold any of the columns, padded or packed, one perhaps none: the same value on each of them."""
    batch, flat = case[0].poisoned(np.nan), case[2]
    owner = np.array(case[1][: batch.mask.shape[1]])
    columns = [np.flatnonzero(owner == rank) for rank in range(int(owner.max()) + 1)]
    parts = [batch.columns(own) for own in columns]
    answers, expected = _all_ranks(subject, parts, flat), subject(batch)
    note = f"columns on ranks {owner.tolist()}{', packed' if flat else ''}; on one rank:"
    whole = np.zeros(batch.mask.shape)
    for rank, (answer, own) in enumerate(zip(answers, columns, strict=True)):
        same_value(answer, expected.value, setting, batch, f"the loss on rank {rank}", note)
        whole[:, own] = answer.weight.reshape(len(batch.mask), len(own))
    if setting.is_clear(batch, subject.kink):
        same_weight(answers[0]._replace(weight=whole), expected.weight, setting, batch, "the ranks' gradients", note)
    return sum(bool(part.mask.any()) for part in parts) > 1


def _all_ranks(subject: Subject, parts: list[Batch], flat: bool) -> list[Outcome]:
    """All ranks in turn, over and over: what one asks to have summed is known once the others have asked for it, too."""
    asked: list[list[Any]] = [[] for _ in parts]
    answers: list[Outcome] = []
    for _ in range(8):  # each round makes one more sum known; no objective needs more than a few
        before, asked = asked, [[] for _ in parts]
        answers = [
            _on_rank(subject, part, flat, asked[rank], before[:rank] + before[rank + 1 :]) for rank, part in enumerate(parts)
        ]
    return answers


def _on_rank(subject: Subject, part: Batch, flat: bool, asked: list[Any], others: list[list[Any]]) -> Outcome:
    """One rank's answer, given what the other ones asked to have summed in the round before."""

    def summed(x: Any) -> Any:
        asked.append(x)
        return x + sum(other[len(asked) - 1] for other in others if len(asked) <= len(other))

    ids = np.where(part.mask, np.arange(len(part.mask))[:, None], -1).reshape(-1)
    layout = sharded(Packed(ids, len(part.mask)) if flat else Padded(part.mask), summed)
    return _numpy(subject, part, layout)


def _numpy(subject: Subject, batch: Batch, layout: Layout) -> Outcome:
    """The objective in NumPy, where a sum over ranks and a mask of masks are anybody's functions."""
    assert subject.objective is not None
    logp, old = (x.reshape(layout.shape) for x in (batch.logp, batch.old_logp))
    advantage = PerToken(batch.advantage.reshape(layout.shape)) if batch.per_token else batch.advantage
    with blamed_on(batch):
        loss = policy_loss(subject.objective, logp, old, advantage, layout)
    return Outcome(float(loss.value), np.asarray(loss.logp_grad), 2.3e-16, 0.0)


@law(
    "a layout without a token has loss 0",
    source="theory G4: no responses, no columns, or slots of nobody: a rank that is left without work",
    otherwise="a rank or a micro-batch without work raises an error, or gives NaN",
    needs={Claim.LAYOUTS},
    cases=lambda setting: st.sampled_from(NOTHING),
    anchors=lambda setting: list(NOTHING),
    effort=0.05,
)
def nothing(subject: Subject, setting: Setting, case: tuple[Callable[..., Layout], tuple[int, ...], int]) -> bool:
    """Value 0 and gradients 0, in every layout."""
    make, shape, num = case
    layout = make(np.full(shape, -1), num) if make is Packed else make(np.zeros(shape, dtype=bool))
    empty = Batch(*(np.full((num, 0), np.nan),) * 2, np.full(num, np.nan), np.zeros((num, 0), dtype=bool))
    assert subject.objective is not None
    with blamed_on(empty):
        loss = policy_loss(subject.objective, np.full(shape, np.nan), np.full(shape, np.nan), np.full(num, np.nan), layout)
    demand(loss.value, 0.0, 0.0, f"the loss of a {make.__name__} layout of shape {list(shape)}", empty)
    demand(loss.logp_grad, np.zeros(shape), 0.0, "its gradient", empty)
    return True


LAYOUTS: list[Law] = [packed, cumulative, restricted, shards, nothing]
