"""In which tokens, and for which advantages, a loss differs, measured where no known formula is the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gspo_core.laws.kit.batch import Batch, Floats
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import Subject
from gspo_core.objectives.clipped_surrogates import Clip
from gspo_core.objectives.ratios import Sequence, SequenceToken

from .answers import Seen, agree
from .suspect import Suspect

STEP = 0.2
"""Log ratio of one token of three, upwards and with A = −1, where nothing is clipped."""
EXACT = 1e-6
"""Relative error of a measured part."""
FAR = 4.0
"""A log ratio beyond all usual bounds."""


def shapes(subject: Subject, setting: Setting, seen: list[Seen]) -> Iterator[Suspect]:
    """What is measured here, one after the other."""
    yield from _gradients(subject, setting, seen)
    yield from _ranges(subject, setting)
    if type(setting.like.ratio) in (Sequence, SequenceToken):
        yield from _lengths(subject)
        yield from _parts(subject)


def _gradients(subject: Subject, setting: Setting, seen: list[Seen]) -> Iterator[Suspect]:
    """The gradient of each token, relative to the formula's, where all values are right."""
    if not subject.own_gradient or not all(agree(setting, _of_value(s), s.right) for s in seen):
        return
    wrong = next((s for s in seen if not agree(setting, s, s.right)), None)
    if wrong is None or wrong.found.weight[wrong.right.weight == 0].any():
        return
    rows = [wrong.batch.rows([i]) for i in range(len(wrong.batch.mask)) if wrong.batch.mask[i].any()]
    if len(rows) > 1 and all(_is_right(subject, setting, row) for row in rows):
        return
    there = wrong.right.weight != 0
    shares = [f"{x:.4g}" for x in wrong.found.weight[there] / wrong.right.weight[there]]
    tokens = int(wrong.batch.mask.sum())
    where = (
        f"a batch of {len(wrong.batch.mask)} responses"
        if len(wrong.batch.mask) > 1
        else f"a response of {tokens} token{'s' if tokens > 1 else ''}"
    )
    listed = " and ".join([", ".join(shares[:-1]), shares[-1]]) if len(set(shares)) > 1 else shares[0]
    words = f"the value is right and the gradient is another one: in {where} it is {listed} times that of the formula"
    yield Suspect(words, "return the derivative of the value, or leave it to autodiff")


def _is_right(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Whether a batch has the value and the gradient of the formula."""
    right = Suspect("", "").evaluate(setting, batch)
    return agree(setting, Seen(batch, subject(batch), right), right)


def _of_value(s: Seen) -> Seen:
    """Without a gradient that can be compared."""
    return replace(s, found=s.found._replace(noise=np.inf))


def _ranges(subject: Subject, setting: Setting) -> Iterator[Suspect]:
    """Clip ranges that are not the same for a strong and for a weak advantage of one sign."""
    if not (isinstance(setting.like.surrogate, Clip) and Claim.LEVEL_RATIO in setting.claims):
        return

    def on_policy(a: float) -> float:
        return subject.value(Batch.of([[0.0]], [a])).value / a

    def end(a: float) -> str:
        """The ratio at which the loss of a token ends; empty if it goes on."""
        near, far = (abs(subject.value(Batch.of([[math.copysign(x, a)]], [a])).value / a) for x in (FAR, FAR + 1.0))
        return f"{near:.5g}" if abs(near - far) <= EXACT * (1.0 + near) else ""

    for sign in (1.0, -1.0):
        weak, strong = end(sign), end(2.0 * sign)
        if weak != strong and abs(on_policy(sign) - on_policy(2.0 * sign)) <= EXACT:
            ends = [f"ends at the ratio {x}" if x else "never ends" for x in (weak, strong)]
            words = f"for A = {sign:g} the loss {ends[0]}, for A = {2 * sign:g} it {ends[1]}"
            yield Suspect(f"the clip range depends on the size of the advantage: {words}", "use one range for all advantages")


def _lengths(subject: Subject) -> Iterator[Suspect]:
    """The length by which the sum of log ratios is divided, for one, two and three equal tokens."""

    def log_loss(n: int, d: float) -> float:
        found = abs(subject.value(Batch.of([[d] * n], [-1.0])).value)
        return math.log(found) if found > 0 else math.nan

    counted = []
    for n in (1, 2, 3):
        near, far = ((log_loss(n, by * STEP) - log_loss(n, 0.0)) / (by * STEP) for by in (1, 2))
        if not (abs(near - far) <= EXACT and near > EXACT):
            return
        counted.append(n / near)
    if any(abs(x - n) > 10 * EXACT for x, n in zip(counted, (1, 2, 3), strict=True)):
        listed = f"{counted[0]:.4g}, {counted[1]:.4g} and {counted[2]:.4g}"
        words = f"the sum of the log ratios of one, two and three tokens is divided by {listed}, not by the length"
        yield Suspect(words, "divide by mask.sum(-1), at least 1")


def _parts(subject: Subject) -> Iterator[Suspect]:
    """The part of each of three tokens in the log ratio of a response, if that is a sum of parts."""
    start = abs(subject.value(Batch.of([[0.0] * 3], [-1.0])).value)

    def log_ratio(d: Floats) -> float:
        found = abs(subject.value(Batch.of([d.tolist()], [-1.0])).value)
        return math.log(found / start) if found > 0 < start else math.nan

    unit = np.eye(3) * STEP
    parts = np.array([log_ratio(one) for one in unit]) / STEP
    twice = np.array([log_ratio(2 * one) for one in unit]) / STEP
    together = log_ratio(unit.sum(axis=0)) / STEP
    linear = np.abs(twice - 2 * parts).max() <= EXACT and abs(together - parts.sum()) <= EXACT
    if linear and np.ptp(parts) > 10 * EXACT:
        listed = f"{parts[0]:.4g}, {parts[1]:.4g} and {parts[2]:.4g}"
        words = f"the tokens of a response do not have equal parts in its log ratio: of three tokens they have {listed}"
        yield Suspect(words, "take the mean of the log ratios: every token has the part 1/|y|")
