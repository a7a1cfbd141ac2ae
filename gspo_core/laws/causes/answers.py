"""What a loss returns on probes, beside what the right formula and suspects return there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from gspo_core.laws.kit.batch import Batch, Floats
from gspo_core.laws.kit.compare import rounding, scale_of, tiny
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import LossError, LossResult, Subject

from .probes import probes
from .suspect import Suspect


@dataclass(frozen=True)
class Seen:
    """A probe, the result of the loss, and that of the right formula."""

    batch: Batch
    found: LossResult
    right: LossResult


def answers(subject: Subject, setting: Setting) -> list[Seen] | None:
    """The loss on all probes; None if it raises an error on one."""
    right, found = Suspect("", ""), []
    for batch in probes(setting):
        if not setting.is_clear(batch, subject.kink):
            continue
        try:
            found.append(Seen(batch, subject(batch), right.evaluate(setting, batch)))
        except LossError:
            return None
    return found


def agree(setting: Setting, seen: Seen, model: LossResult) -> bool:
    """Whether the loss is the model on a probe: in value and in gradient."""
    noise = model.noise + seen.found.noise * (1.0 + seen.batch.largest)
    return _same(seen.found.value, model.value, setting, seen) and (
        not _has_gradient(setting, seen)
        or _same(seen.found.weight, np.where(seen.batch.mask, model.weight, 0.0), setting, seen, noise)
    )


def _has_gradient(setting: Setting, seen: Seen) -> bool:
    """Whether the gradient can be compared: one by differences is the value's, which that of the formula need not be."""
    return seen.found.noise == 0 or (np.isfinite(seen.found.noise) and setting.like.surrogate.exact)


def _same(actual: float | Floats, expected: float | Floats, setting: Setting, seen: Seen, noise: float = 0.0) -> bool:
    size = scale_of(setting, seen.batch) + float(np.max(np.abs(expected), initial=0.0))
    allowed = (rounding(seen.found, seen.batch) + noise) * size + tiny(seen.found)
    return bool(np.all(np.abs(np.asarray(actual) - np.asarray(expected)) <= allowed))


def agreeing(suspects: Iterable[Suspect], setting: Setting, seen: list[Seen]) -> Suspect | None:
    """The first of the suspects that is the loss on all probes; those on which the formula is not come first."""
    telling = sorted(seen, key=lambda s: (agree(setting, s, s.right), len(s.batch.mask)))
    for suspect in suspects:
        if all(_is(suspect, setting, s) for s in telling):
            return suspect
    return None


def _is(suspect: Suspect, setting: Setting, seen: Seen) -> bool:
    """Whether a suspect is the loss on a probe: its value first, where its gradient takes differences of it."""
    if suspect.by_differences:
        value = _evaluated(replace(suspect, by_differences=False), setting, seen.batch).value
        if not _same(seen.found.value, value, setting, seen):
            return False
    return agree(setting, seen, _evaluated(suspect, setting, seen.batch))


def _evaluated(suspect: Suspect, setting: Setting, batch: Batch) -> LossResult:
    """The model on a probe; NaN where its objective cannot be."""
    try:
        with np.errstate(all="ignore"):
            found = suspect.evaluate(setting, batch)
            return found._replace(noise=1.0) if suspect.by_differences and _tied(batch) else found
    except (TypeError, ValueError, OverflowError):  # a pair that makes no objective, such as GRPO's reduction of one ratio
        return LossResult(np.nan, np.full(batch.mask.shape, np.nan), 1.0, 0.0)


def _tied(batch: Batch) -> bool:
    """Whether two tokens of a response have equal log ratios, where a largest token and a median have no gradient."""
    rows = (d[own] for d, own in zip(batch.d, batch.mask, strict=True))
    return any(len(np.unique(row)) < len(row) for row in rows)


def relative(setting: Setting, seen: Seen) -> float:
    """Largest difference of value and gradient from the formula, relative to their size and to that of the log ratios."""
    scale = (scale_of(setting, seen.batch) or 1.0) * (1.0 + seen.batch.largest)
    off = abs(seen.found.value - seen.right.value) / scale
    if not _has_gradient(setting, seen):
        return off
    gap = np.abs(np.where(seen.batch.mask, seen.found.weight, 0.0) - seen.right.weight)
    gap = np.maximum(gap - seen.found.noise * (1.0 + seen.batch.largest) * scale, 0.0)
    return float(max(off, gap.max() / scale)) if np.isfinite(gap).all() else np.inf


def has_right_gradient(setting: Setting, seen: list[Seen]) -> bool:
    """Whether all gradients are right, some of them not 0 beside a wrong value; one by finite differences says nothing."""
    shown = any(s.right.weight.any() and not _same(s.found.value, s.right.value, setting, s) for s in seen)
    return shown and all(
        s.found.noise == 0 and _same(np.where(s.batch.mask, s.found.weight, 0.0), s.right.weight, setting, s) for s in seen
    )
