"""Suspects of the reduction: other weights of responses than the objective's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.batch import Batch, Floats
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.reductions import FixedLength, TokenMean

Weights = Callable[[Floats, int, int, int], Floats]
"""(lengths [N], non-empty responses F, rows N, slots T) ↦ the weight of each response in the loss."""

MEANS: tuple[tuple[str, str, Weights], ...] = (
    (
        "every response has the same weight, whatever its length",
        "weigh responses by their lengths",
        lambda y, f, n, t: np.ones(n) / f,
    ),
    (
        "rows without a token are counted",
        "divide by the number of rows with a token, mask.any(-1).sum(), not by all rows; or say empty_rows=False, if the "
        "trainer drops such rows before",
        lambda y, f, n, t: np.ones(n) / n,
    ),
    (
        "every token has the same weight, so that long responses weigh more: a mean over all tokens",
        "take the mean over the tokens of each response first, then over responses",
        lambda y, f, n, t: y / y.sum(),
    ),
    ("responses are summed, not averaged", "divide by the number of responses", lambda y, f, n, t: np.ones(n)),
    ("all tokens are summed, not averaged", "divide by the lengths and by the number of responses", lambda y, f, n, t: y),
    (
        "a response's sum over tokens is not divided by its length: long responses weigh more",
        "divide each response's sum by its length",
        lambda y, f, n, t: y / f,
    ),
    (
        "a response's sum over tokens is not divided by its length, and rows without a token are counted",
        "divide each response's sum by its length, and the total by the number of rows with a token",
        lambda y, f, n, t: y / n,
    ),
    (
        "a response's sum over tokens is divided by the padded width, not by its length: short responses weigh less",
        "divide by mask.sum(-1), not by the number of slots",
        lambda y, f, n, t: y / (f * t),
    ),
    (
        "the loss is a mean over all slots, padding and empty rows included",
        "divide by mask.sum(-1), and by the number of rows with a token",
        lambda y, f, n, t: y / (n * t),
    ),
    (
        "a response's sum over tokens is divided by the longest length of the batch, not by its own",
        "divide by mask.sum(-1)",
        lambda y, f, n, t: y / (f * y.max()),
    ),
    (
        "a response's sum over tokens is divided by the square root of its length",
        "divide by mask.sum(-1)",
        lambda y, f, n, t: np.sqrt(y) / f,
    ),
    (
        "each response is divided by the square root of its length",
        "weigh every response alike",
        lambda y, f, n, t: 1.0 / np.sqrt(np.maximum(y, 1.0)) / f,
    ),
    (
        "each response is divided by its length once more: long responses weigh less",
        "weigh every response alike",
        lambda y, f, n, t: 1.0 / np.maximum(y, 1.0) / f,
    ),
    (
        "the sum over responses is divided by the number of tokens",
        "divide by the number of responses",
        lambda y, f, n, t: np.ones(n) / y.sum(),
    ),
    (
        "the sum over responses is divided by N − 1",
        "divide by N, the number of responses with a token",
        lambda y, f, n, t: np.ones(n) / max(f - 1, 1),
    ),
)
"""(sentence, fix, weights)."""


def _counts(batch: Batch) -> tuple[Floats, int, int, int]:
    return batch.lengths.astype(np.float64), int((batch.lengths > 0).sum()), *batch.mask.shape


def _own(objective: Objective, lengths: Floats, filled: int) -> Floats:
    """The weights of the objective's own reduction."""
    if isinstance(objective.reduction, TokenMean):
        return np.asarray(lengths / lengths.sum())
    if isinstance(objective.reduction, FixedLength):
        return np.asarray(lengths / (filled * objective.reduction.length))
    return np.ones(len(lengths)) / filled


def _factor(objective: Objective, weights: Weights) -> Callable[[Batch], Floats]:
    def factor(batch: Batch) -> Floats:
        lengths, filled, rows, slots = _counts(batch)
        if not filled or batch.denominator is not None:
            return np.ones(rows)
        own = _own(objective, lengths, filled)
        return np.asarray(weights(lengths, filled, rows, slots) / np.where(own == 0, 1.0, own))

    return factor


def _empty_rows_with_ratio_one(batch: Batch) -> float:
    """−A for each empty row, beside the mean over all rows."""
    empty = batch.lengths == 0
    share = batch.advantage.mean(axis=1) if batch.per_token else batch.advantage
    return -float(np.where(empty, share, 0.0).sum()) / len(empty)


def _without_advantage(objective: Objective) -> Callable[[Batch], Floats]:
    """The weights of a mean over the responses that have an advantage."""

    def factor(batch: Batch) -> Floats:
        lengths, _filled, rows, _slots = _counts(batch)
        live = batch.token_advantage.any(axis=1)
        size = lengths if isinstance(objective.reduction, TokenMean) else (lengths > 0).astype(np.float64)
        counted = float((size * live).sum())
        return np.full(rows, size.sum() / counted if counted and batch.denominator is None else 1.0)

    return factor


def reductions(objective: Objective) -> list[Suspect]:
    """All suspects; the objective's own reduction is among them, and explains nothing."""
    found = [Suspect(sentence, fix, factor=_factor(objective, weights)) for sentence, fix, weights in MEANS]
    if isinstance(objective.reduction, FixedLength):
        sentence, fix, _ = MEANS[1]
        length = objective.reduction.length
        found.insert(0, Suspect(sentence, fix, factor=_factor(objective, lambda y, f, n, t: y / (n * length))))
    rows = _factor(objective, MEANS[1][2])
    fix = "leave rows without a token out of the sum and of N; or say empty_rows=False, if the trainer drops such rows before"
    words = "a row without a token counts as a response with ratio 1"
    found.append(Suspect(words, fix, factor=rows, added=_empty_rows_with_ratio_one))
    if objective.gate is None:  # which sets advantages to 0
        counted = "responses with advantage 0 are not counted in the mean", "count them: they make the mean smaller"
        found.append(Suspect(*counted, factor=_without_advantage(objective)))
    return found
