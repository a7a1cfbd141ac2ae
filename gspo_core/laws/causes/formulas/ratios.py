"""Suspects of the ratio: another length, another direction, other tokens, or a ratio per token."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.batch import Batch, Bools, Floats
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.ratios import Product, ProductToken, Sequence, SequenceToken, Token


def _size(batch: Batch) -> Floats:
    return np.maximum(batch.lengths, 1).astype(np.float64)


def _part(batch: Batch) -> Floats:
    return 1.0 / _size(batch)


def _span(batch: Batch) -> Floats:
    """From the first token to the last."""
    width = batch.mask.shape[1]
    first = np.argmax(batch.mask, axis=1)
    return np.where(batch.mask.any(axis=1), width - np.argmax(batch.mask[:, ::-1], axis=1) - first, 1).astype(np.float64)


STRETCHED: tuple[tuple[str, str, Callable[[Batch], Floats]], ...] = (
    (
        "the ratio is turned over: π_old/π for π/π_old, or the loss takes the old log-probs first, as verl's do",
        "exchange log π and log π_old; where their order is another, pass Names(logp=..., old_logp=...)",
        lambda batch: -np.ones(len(batch.mask)),
    ),
    (
        "log ratios are divided by the padded width, not by the length",
        "divide by mask.sum(-1), not by the number of slots",
        lambda batch: _size(batch) / batch.mask.shape[1],
    ),
    (
        "a response's ratio is exp of the sum of its log ratios: the power 1/|y| is missing",
        "divide the sum of log ratios by mask.sum(-1)",
        _size,
    ),
    (
        "log ratios are divided by the length twice",
        "divide by mask.sum(-1) once",
        lambda batch: 1.0 / _size(batch),
    ),
    (
        "log ratios are divided by |y| + 1",
        "divide by mask.sum(-1), at least 1: .clamp(min=1)",
        lambda batch: _size(batch) / (_size(batch) + 1.0),
    ),
    (
        "log ratios are divided by |y| − 1: one token is not counted in the length",
        "divide by mask.sum(-1)",
        lambda batch: _size(batch) / np.maximum(_size(batch) - 1.0, 1.0),
    ),
    (
        "log ratios are divided by the square root of the length",
        "divide by mask.sum(-1)",
        lambda batch: np.sqrt(_size(batch)),
    ),
    (
        "log ratios are divided by the span from first to last token, masked slots between them included",
        "divide by mask.sum(-1)",
        lambda batch: _size(batch) / _span(batch),
    ),
    (
        "the ratio is turned over where it is below 1: exp of the size of its log ratio",
        "exchange nothing, and take no absolute value: use the mean log ratio as it is",
        lambda batch: np.where(batch.d.sum(axis=1) < 0, -1.0, 1.0),
    ),
    (
        "tokens whose log ratio is 0 are treated as padding",
        "use the mask, not the numbers",
        lambda batch: _size(batch) / np.maximum((batch.d != 0).sum(axis=1), 1),
    ),
)
"""(sentence, fix, [N] factor of the mean log ratio)."""


def stretched(factor: Callable[[Batch], Floats]) -> Callable[[Batch], Batch]:
    """The batch with each row's log ratios multiplied by `factor`, [N]."""
    return lambda batch: batch.with_d(batch.d * factor(batch)[:, None])


def _masked(batch: Batch, keep: Bools) -> Batch:
    return replace(batch, mask=batch.mask & keep)


def _without(slot: int, single: bool) -> Callable[[Batch], Batch]:
    """Without the first or the last slot; `single` for a loss that keeps the only slot of a batch of width 1."""

    def cut(batch: Batch) -> Batch:
        keep = np.ones(batch.mask.shape, dtype=bool)
        keep[:, slot] = single and batch.mask.shape[1] == 1
        return _masked(batch, keep)

    return cut


def _ends(batch: Batch, last: bool) -> Bools:
    """The first or the last token of every response."""
    seen = np.cumsum(batch.mask, axis=1)
    return np.asarray(batch.mask & (seen == (batch.lengths[:, None] if last else 1)))


def _prefix(batch: Batch) -> Batch:
    """The first |y| slots of every row."""
    return replace(batch, mask=np.arange(batch.mask.shape[1]) < batch.lengths[:, None])


def other_tokens() -> list[Suspect]:
    """Other tokens than those of the response."""
    found = []
    for name, last in (("first", False), ("last", True)):

        def others(batch: Batch, last: bool = last) -> Floats:
            return 1.0 - _ends(batch, last)

        def silent(batch: Batch, last: bool = last) -> Batch:
            return batch.with_d(np.where(_ends(batch, last), 0.0, batch.d))

        def shorter(batch: Batch, last: bool = last) -> Batch:
            return _masked(batch, ~_ends(batch, last))

        def at_least_one(batch: Batch, last: bool = last) -> Batch:
            return _masked(batch, ~_ends(batch, last) | (batch.lengths == 1)[:, None])

        def only(batch: Batch, last: bool = last) -> Floats:
            return _ends(batch, last).astype(np.float64)

        fix = "do not cut the arrays: all tokens of the mask count"
        words = f"the {name} token of every response is dropped"
        found += [
            Suspect(f"{words}, and still counted in its length", fix, batch=silent, chain=others),
            Suspect(words, fix, batch=shorter),
            Suspect(words, fix, batch=at_least_one),
            Suspect(
                f"only the {name} token of a response has a gradient", "let the gradient flow through all tokens", chain=only
            ),
        ]
    words = "the first |y| slots of a row are taken for its response: the mask is assumed to have no holes"
    return [*found, Suspect(words, "select by the mask, not by the length", batch=_prefix)]


def power(slope: float) -> list[Suspect]:
    """A power of the ratio, as measured on policy by the gradient."""
    if not np.isfinite(slope) or slope in (0.0, 1.0):
        return []

    def by(batch: Batch) -> Floats:
        return np.full(len(batch.mask), slope)

    words = f"log ratios are multiplied by {slope:.6g}: the ratio is raised to that power"
    return [Suspect(words, "use log π − log π_old as it is", batch=stretched(by), chain=by)]


def _zero(batch: Batch) -> Batch:
    return batch.with_d(np.zeros(batch.mask.shape))


def _token(objective: Objective) -> Objective:
    return replace(objective, ratio=Token())


def _pooled(objective: Objective) -> Objective:
    return replace(objective, ratio=SequenceToken() if objective.reduction.sums_tokens else Sequence())


def _filled(batch: Batch) -> Floats:
    return np.full(len(batch.mask), float((batch.lengths > 0).sum()))


def _shared(batch: Batch) -> Batch:
    """Every token has the mean log ratio of all tokens of the batch."""
    tokens = max(1, int(batch.mask.sum()))
    return batch.with_d(np.where(batch.mask, batch.d.sum() / tokens, 0.0))


def _gradients(objective: Objective) -> list[Suspect]:
    """The right value, with a factor missing in the gradient."""

    def inverse_ratio(batch: Batch) -> Floats:
        if isinstance(objective.ratio, Token):
            return np.asarray(np.exp(-batch.d))
        return np.asarray(
            np.exp(-batch.d.sum(axis=1) / (1 if isinstance(objective.ratio, (Product, ProductToken)) else _size(batch)))
        )

    right = "the value is right and the gradient lacks the factor"
    return [
        Suspect(
            f"{right} r: it is that of A log π",
            "multiply the gradient by the ratio, or leave it to autodiff",
            chain=inverse_ratio,
        ),
        Suspect(f"{right} 1/|y|", "divide the gradient by the length, or leave it to autodiff", chain=_size),
        Suspect(f"{right} 1/N", "divide the gradient by the number of responses, or leave it to autodiff", chain=_filled),
    ]


def ratios(objective: Objective) -> list[Suspect]:
    """All suspects; those that do not change the objective explain nothing."""
    found = [Suspect(words, fix, batch=stretched(by), chain=by) for words, fix, by in STRETCHED]
    if not isinstance(objective.ratio, Token):
        found.append(
            Suspect("every token has its own ratio, as in GRPO", "take one ratio per response, exp of the mean", _token)
        )
        words = "every token has a ratio of its own, exp of its log ratio divided by the length"
        fix = "sum the log ratios of a response before they are divided by its length"
        found.append(Suspect(words, fix, _token, stretched(_part), chain=_part))
    if isinstance(objective.ratio, Token):
        found.append(Suspect("all tokens of a response share one ratio, as in GSPO", "take one ratio per token", _pooled))
    if isinstance(objective.ratio, (Product, ProductToken)):
        words = "a response's ratio is exp of the mean of its log ratios, as in GSPO, not of their sum"
        found.append(Suspect(words, "take exp of the sum of the log ratios", _pooled))
    found += [
        Suspect("the old policy is ignored: every ratio is 1", "use the old log-probs that are passed", batch=_zero),
        Suspect(
            "the old policy is ignored, and the gradient is 0",
            "use the old log-probs that are passed",
            batch=_zero,
            slope=0.0,
        ),
    ]
    found += _gradients(objective)
    words = "all responses of the batch share one ratio"  # as a factor of each token's own gradient; statistics.py has its own
    found.append(Suspect(words, "take the mean over each response's own tokens; in a pack, over each segment", batch=_shared))
    for (words, slot), single in itertools.product((("last", -1), ("first", 0)), (False, True)):
        fix = "do not cut the arrays: all slots count"
        found.append(Suspect(f"the {words} slot of every row is dropped", fix, batch=_without(slot, single)))
    return found
