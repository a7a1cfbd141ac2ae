"""Wrong clip fractions: other units are counted, or their number is divided by another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gspo_core.laws.chapters.functions.clip_fraction import ClipFractionFunction
from gspo_core.laws.kit.batch import Batch, Bools, Floats
from gspo_core.laws.kit.cause import Cause
from gspo_core.laws.kit.runner import LawVerdict
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import LossError
from gspo_core.objectives.clipped_surrogates import Clip
from gspo_core.objectives.ratios import Sequence as OneRatio
from gspo_core.objectives.ratios import SequenceToken, Token

from .explained import Wrong, explained

Count = Callable[[Floats, Floats, Bools], Bools]
"""(log ratio, advantage, whether it is a unit) ↦ whether a unit is counted; all of one shape."""
Share = Callable[[Bools, Bools], float]
"""(counted [N] or [N, T], mask [N, T]) ↦ the fraction."""


def causes(subject: ClipFractionFunction, setting: Setting, verdicts: Sequence[LawVerdict], seed: int = 0) -> tuple[Cause, ...]:
    """The causes of the broken laws."""
    return explained(list(_wrongs(subject, setting)), verdicts, setting, seed)


def _wrongs(subject: ClipFractionFunction, setting: Setting) -> Iterator[Wrong]:
    like = setting.like
    known = isinstance(like.surrogate, Clip) and type(like.ratio) in (OneRatio, SequenceToken, Token) and like.gate is None
    if not known:
        return
    try:
        found = [float(subject(batch)) for batch in _probes(setting)]
    except (LossError, TypeError, ValueError):
        return
    for words, fix, fn in _suspects(subject.per_token, setting):
        model = ClipFractionFunction(words, fn, subject.per_token)
        if all(abs(float(model(b)) - x) <= 1e-6 for b, x in zip(_probes(setting), found, strict=True)):
            yield Wrong(words, fix, model)
            return


def _probes(setting: Setting) -> list[Batch]:
    """Ragged batches with an empty row, advantages of 0, and units clipped, or outside on the other side."""
    low, high = setting.log_bounds
    up, down = 1.5 * (high or 0.2), 1.5 * (low or -0.2)
    return [
        Batch.of([[up, 0.0], [down, 0.0]], [1.0, -1.0], [[1, 0], [1, 0]]).with_padding(2.0),
        Batch.of([[down, down, 0.0], [up, up, up]], [1.0, -1.0], [[1, 1, 0], [1, 1, 1]]),
        Batch.of(
            [[3 * up, 0.0, 0.0], [up, up, up], [0.0, 0.0, 0.0], [up, up, 0.0], [down, down, down]],
            [1.0, 1.0, 1.0, 0.0, -2.0],
            [[1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 1, 0], [1, 1, 1]],
        ),
        Batch.of(
            [[up, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, up], [up, up, up, down]], [1.0, 1.0, -1.0], [[1, 0, 0, 0], [1] * 4, [1] * 4]
        ),
    ]


def _suspects(per_token: bool, setting: Setting) -> Iterator[tuple[str, str, Callable[..., float]]]:
    """(sentence, fix, fraction) of every single difference."""
    low, high = setting.log_bounds
    of_tokens = type(setting.like.ratio) is Token

    def clipped(x: Floats, a: Floats, unit: Bools) -> Bools:
        return np.asarray(unit & (((a > 0) & (x > high)) | ((a < 0) & (x < low))))

    def either(x: Floats, a: Floats, unit: Bools) -> Bools:
        return np.asarray(unit & ((x > high) | (x < low)))

    def mirrored(x: Floats, a: Floats, unit: Bools) -> Bools:
        return clipped(x, -a, unit)

    def moved(x: Floats, a: Floats, unit: Bools) -> Bools:
        return np.asarray(unit & (a != 0) & ((x > high) | (x < low)))

    sides = "count a unit where A > 0 and r > 1 + ε_high, or A < 0 and r < 1 − ε_low"
    own = _share(per_token)
    yield "units on both sides of the clip range are counted, whatever the sign of A", sides, _fraction(either, own, of_tokens)
    yield "units on both sides of the clip range are counted, for either sign of A", sides, _fraction(moved, own, of_tokens)
    yield "the side of the clip range is mirrored", sides, _fraction(mirrored, own, of_tokens)
    for words, fix, share in _shares(per_token):
        yield words, fix, _fraction(clipped, share, of_tokens)
    words = "padding is counted: slots that hold no token are compared with the clip range, too"
    yield words, "multiply by the mask before the sum", _fraction(clipped, own, of_tokens, masked=False)
    words = "every ratio is paired with every advantage, as (N, 1) times (N,) does"
    yield words, "give ratio and advantage one shape", _pairs(clipped)
    units = ("tokens", "responses") if of_tokens else ("responses", "tokens")
    words = f"the ratios of {units[1]} are compared with the clip range, not those of {units[0]}"
    yield words, "count the units of the objective", _fraction(clipped, own, not of_tokens)


def _share(per_token: bool) -> Share:
    """The right fraction."""

    def share(counted: Bools, mask: Bools) -> float:
        if per_token:
            return float((counted if counted.ndim == 2 else counted[:, None] & mask).sum() / mask.sum())
        return float((counted.any(axis=1) if counted.ndim == 2 else counted).sum() / mask.any(axis=1).sum())

    return share


def _shares(per_token: bool) -> Iterator[tuple[str, str, Share]]:
    """Other denominators."""

    def wide(counted: Bools, mask: Bools) -> Bools:
        return np.asarray(counted if counted.ndim == 2 else counted[:, None] & mask)

    def of_rows(counted: Bools, mask: Bools) -> float:
        return float((counted.any(axis=1) if counted.ndim == 2 else counted).mean())

    def of_slots(counted: Bools, mask: Bools) -> float:
        return float(wide(counted, mask).mean())

    def of_means(counted: Bools, mask: Bools) -> float:
        rows = mask.any(axis=1)
        return float((wide(counted, mask).sum(axis=1) / np.maximum(1, mask.sum(axis=1)))[rows].mean())

    def of_tokens(counted: Bools, mask: Bools) -> float:
        return float(wide(counted, mask).sum() / mask.sum())

    rows = "divide by the number of rows with a token"
    yield "rows without a token are counted in the denominator", rows, of_rows
    yield "the number is divided by all slots, padding included", "divide by the number of tokens", of_slots
    yield "the fraction is a mean over responses of each one's share of clipped tokens", "divide once, by all units", of_means
    if not per_token:
        yield "tokens are counted, not responses", rows, of_tokens


def _fraction(count: Count, share: Share, of_tokens: bool, masked: bool = True) -> Callable[..., float]:
    def fn(logp: Any, old: Any, a: Any, mask: Any) -> float:
        d = np.where(mask, logp, 0.0) - np.where(mask, old, 0.0)
        if of_tokens:
            return share(count(d if masked else logp - old, np.broadcast_to(a[:, None], d.shape), mask | (not masked)), mask)
        x = (d if masked else logp - old).sum(axis=1) / np.maximum(1, mask.sum(axis=1))
        return share(count(x, a, mask.any(axis=1) | (not masked)), mask)

    return fn


def _pairs(count: Count) -> Callable[..., float]:
    def fn(logp: Any, old: Any, a: Any, mask: Any) -> float:
        x = np.where(mask, logp - old, 0.0).sum(axis=1) / np.maximum(1, mask.sum(axis=1))
        full = mask.any(axis=1)
        pairs = count(np.repeat(x[:, None], len(a), axis=1), np.repeat(a[None], len(a), axis=0), full[:, None])
        return float(pairs.mean(axis=1).sum() / full.sum())

    return fn
