"""What a loss depends on, measured where no known difference explains it: each sentence is true of the loss at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import rounding, scale_of
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import LossError, LossResult, Subject

from .answers import Seen, agree
from .shapes import shapes
from .suspect import Suspect
from .weights import row_weights

TOKENS = Batch.of([[0.31, 0.05, -0.11], [-0.26, 0.11, 0.02]], [-1.0, 1.0], base=-1.0)
"""Two responses, each on the side that is never clipped."""
UNLIKE = ((1.0, -1.0), (2.0, -0.5))
"""Advantages with the sum 0, where a ratio that responses share cancels, and with another."""
STEPS = np.array([0.0, 1.0, 2.3, 3.1, 4.7]) * 1e-4
"""Changes of log π that every loss in float32 follows."""
JUMP = 0.03
"""Distance from a parabola, relative to the whole change, that float32 does not reach in such steps."""


def properties(subject: Subject, setting: Setting, seen: list[Seen]) -> Suspect | None:
    """The first property that the formula has and the loss has not; None if that is none of what is known here."""
    try:
        return next(_found(subject, setting, seen), None)
    except LossError:
        return None


def _found(subject: Subject, setting: Setting, seen: list[Seen]) -> Iterator[Suspect]:
    plain = subject.value(TOKENS).value
    if all(_ignores_old(subject, setting, replace(TOKENS, advantage=np.array(x))) for x in UNLIKE):
        yield Suspect("log π_old has no effect on the loss", "use the old log-probs that are passed")
    rounded = _is_rounded(subject)
    if rounded:
        words = (
            "the loss does not follow log π in steps of 1e-4: log-probs, sums or ratios are rounded, as to bfloat16 or float16"
        )
        yield Suspect(words, "keep log-probs, their differences and their sums in at least float32")
    if not rounded and not all(_near(subject, setting, plain, other) for other in _shifted(setting)):
        words = "the loss depends on log π itself, not on log π − log π_old alone"
        yield Suspect(words, "use log-probs in their difference only")
    yield from shapes(subject, setting, seen)
    yield from _together(subject, setting, seen)


def _ignores_old(subject: Subject, setting: Setting, batch: Batch) -> bool:
    moved = replace(batch, old_logp=batch.old_logp - np.array([[0.05], [0.1]]))
    return _near(subject, setting, subject.value(batch).value, moved)


def _shifted(setting: Setting) -> list[Batch]:
    """The batch with other log-probs and the same log ratios, if the formula is the same on it."""
    each = np.array([[-1.5, 0.25, 0.5], [0.5, -1.25, 0.75]])
    moved = [replace(TOKENS, logp=TOKENS.logp + by, old_logp=TOKENS.old_logp + by) for by in (-1.0, 1.0, each)]
    size = setting.expected(TOKENS)
    return [batch for batch in moved if abs(setting.expected(batch).value - size.value) <= 1e-9 * size.scale]


def _near(subject: Subject, setting: Setting, value: float, batch: Batch) -> bool:
    """Whether the loss of the batch is the value, to rounding."""
    found = subject.value(batch)
    return abs(found.value - value) <= 10 * rounding(found, batch) * (scale_of(setting, batch) + abs(value))


def _is_rounded(subject: Subject) -> bool:
    """Whether the loss moves in jumps, or stands still, where log π moves a little."""
    values = [subject.value(replace(TOKENS, logp=TOKENS.logp + by * np.array([[1.0], [0.0]]))).value for by in STEPS]
    if not np.isfinite(values).all():
        return False
    smooth = np.polyval(np.polyfit(STEPS / STEPS[-1], values, 2), STEPS / STEPS[-1])
    return len(set(values)) < len(values) or bool(np.abs(values - smooth).max() > JUMP * np.ptp(values))


def _together(subject: Subject, setting: Setting, seen: list[Seen]) -> Iterator[Suspect]:
    """Responses that have the right loss alone and not together, or together and not alone."""
    wrong = [s for s in seen if not agree(setting, s, s.right) and s.batch.mask.any(axis=1).all()]
    for s in wrong:
        if len(s.batch.mask) == 1 and Claim.SEQUENCE_MEAN in setting.claims and not agree(setting, _of_value(s), s.right):
            twice = s.batch.rows([0, 0])
            if agree(setting, _asked(subject, setting, twice), _right(setting, twice)):
                words = "a response alone in its batch has another loss than beside a copy of itself"
                yield Suspect(words, "treat a batch of one response like any other: do not squeeze its axis")
    if not wrong or any(len(s.batch.mask) == 1 for s in wrong):
        return
    rows = [s.batch.rows([i]) for s in wrong for i in range(len(s.batch.mask))]
    if not all(agree(setting, _asked(subject, setting, row), _right(setting, row)) for row in rows):
        return
    weights = row_weights(subject, setting, wrong[-1])
    if weights is not None and np.ptp(weights) > 1e-6:
        shown = ", ".join(f"{w:.4g}" for w in weights)
        words = f"responses do not have the weights of the formula: in a batch of {len(weights)}, {shown} times as much"
        yield Suspect(words, "take the mean of the formula over all responses, whatever their order and number")
    words = "each response alone has the right loss, and several together have not: its place, or the others, change its part"
    yield Suspect(words, "compute ratio, clip and advantage of each response from its own numbers")


def _of_value(s: Seen) -> Seen:
    """Without a gradient that can be compared."""
    return replace(s, found=s.found._replace(noise=np.inf))


def _asked(subject: Subject, setting: Setting, batch: Batch) -> Seen:
    return Seen(batch, subject(batch), _right(setting, batch))


def _right(setting: Setting, batch: Batch) -> LossResult:
    """The right formula."""
    return Suspect("", "").evaluate(setting, batch)
