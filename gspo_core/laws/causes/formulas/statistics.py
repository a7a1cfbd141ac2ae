"""Suspects of the ratio of a response: another statistic of its tokens' log ratios, or tokens that are not its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.batch import Batch, Floats

Statistic = Callable[[Floats], float]
"""Log ratios of a response's tokens ↦ its log ratio."""
MEAN = "take the mean of the log ratios: (log_ratio * mask).sum(-1) / mask.sum(-1), then exp"
STATISTICS: tuple[tuple[str, Statistic], ...] = (
    ("the arithmetic mean of its token ratios, not the geometric one", lambda d: float(np.log(np.exp(d).mean()))),
    ("the largest of its token ratios", lambda d: float(d.max())),
    ("the smallest of its token ratios", lambda d: float(d.min())),
    ("the median of its token ratios", lambda d: float(np.median(d))),
    ("the ratio of its first token", lambda d: float(d[0])),
    ("the ratio of its last token", lambda d: float(d[-1])),
    ("the token ratio that is farthest from 1", lambda d: float(d[np.argmax(np.abs(d))])),
)


def _each(statistic: Statistic) -> Callable[[Batch], Batch]:
    """Every token of a response with the statistic as its log ratio."""

    def changed(batch: Batch) -> Batch:
        d = batch.d
        rows = [statistic(d[i][own]) if own.any() else 0.0 for i, own in enumerate(batch.mask)]
        return batch.with_d(np.repeat(np.array(rows)[:, None], d.shape[1], axis=1))

    return changed


def _pooled(batch: Batch) -> Batch:
    """Every token with the mean log ratio of the batch."""
    return batch.with_d(np.full(batch.mask.shape, batch.d.sum() / max(1, batch.mask.sum())))


def _over_their_mean(batch: Batch) -> Batch:
    """The ratio of each response divided by the mean ratio of the batch."""
    own = batch.mask.any(axis=1)
    log_s = batch.d.sum(axis=1) / np.maximum(1, batch.lengths)
    mean = float(np.exp(log_s[own]).mean()) if own.any() else 1.0
    return batch.with_d(np.repeat((log_s - np.log(mean))[:, None], batch.mask.shape[1], axis=1))


def _not_masked(batch: Batch) -> Batch:
    """The log ratios of all slots, in the sum over tokens."""
    total = (batch.logp - batch.old_logp).sum(axis=1) / np.maximum(1, batch.lengths)
    return batch.with_d(np.repeat(total[:, None], batch.mask.shape[1], axis=1))


def _shifted(by: int) -> Callable[[Batch], Batch]:
    """The mask moved by one slot; tokens that it then covers are those of the batch."""
    return lambda batch: replace(batch, mask=np.roll(batch.mask, by, axis=1) & batch.mask)


def _borders(by: int) -> Callable[[Batch], Batch]:
    """Rows one after another, as in a packed array, with the borders between responses moved by one slot."""

    def moved(batch: Batch) -> Batch:
        rows = np.where(batch.mask, np.arange(len(batch.mask))[:, None], -1).ravel()
        owner = np.append(rows[1:], rows[-1:]) if by > 0 else np.append(rows[:1], rows[:-1])
        total = [batch.d.ravel()[(owner == i) & (rows >= 0)].sum() for i in range(len(batch.mask))]
        return batch.with_d(np.repeat((total / np.maximum(1, batch.lengths))[:, None], batch.mask.shape[1], axis=1))

    return moved


def statistics() -> list[Suspect]:
    """All suspects, with gradients by differences."""
    found = [(f"a response's ratio is {words}", MEAN, _each(change)) for words, change in STATISTICS]
    found += [
        ("all responses of the batch share one ratio", "take the mean over each response's own tokens", _pooled),
        ("log ratios of padding enter the ratio: the sum over slots is not masked", "mask before the sum", _not_masked),
        *(
            (
                "the mask is off by one slot from the log-probs",
                "use the slices of mask and log-probs that belong together",
                move,
            )
            for move in map(_shifted, (1, -1))
        ),
        *(
            (
                f"the borders of responses are off by one slot: a response's {end} token does not enter its ratio",
                "use the offsets, or segment ids, and the log-probs that belong together",
                _borders(by),
            )
            for end, by in (("last", 1), ("first", -1))
        ),
    ]
    words, fix = "the ratios are divided by their mean over the batch", "use each response's own ratio"
    held = Suspect(f"{words}, which is held constant", fix, batch=_over_their_mean)
    found.append((words, fix, _over_their_mean))
    return [held, *(Suspect(words, fix, batch=change, by_differences=True) for words, fix, change in found)]
