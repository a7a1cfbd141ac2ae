"""What a loss does with its arrays beside the formula: padding, advantages of 0, bounds hit exactly, arrays of the caller."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gspo_core.laws.kit.batch import Batch, Floats
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import rounding
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import LossError, Subject

from .suspect import Suspect

PADDED = Batch.of([[1e-4, 0.0, 0.0], [-5e-5, 1.5e-4, 0.0]], [1.0, -0.5], [[1, 0, 0], [1, 1, 0]], base=-1.0)
"""Two responses with padding, inside all usual bounds."""
STEP = 2.0**-10
"""Half the width of a difference of the value."""


def handling(subject: Subject, setting: Setting) -> Suspect | None:
    """The first such thing; None if there is none that is known here."""
    try:
        return next(_found(subject, setting), None)
    except LossError:
        return None


def _found(subject: Subject, setting: Setting) -> Iterator[Suspect]:
    changed = subject.changed(PADDED.with_padding(7.0))
    if changed:
        words = f"the loss overwrites its argument {' and '.join(changed)}"
        yield Suspect(f"{words}: the next call sees other numbers", "work on a copy: write into no array of the caller")
    if math.isnan(subject.value(Batch.of([[0.0]], [0.0])).value):
        words = "with an advantage of 0 the loss is NaN, as 0/0 is"
        yield Suspect(words, "divide by nothing that is 0 where the advantage is")
    read = [name for name, batch in _padded(setting) if _differs(subject, PADDED, batch)]
    if read:
        yield Suspect(
            f"numbers in the padding of {' and '.join(read)} enter the loss", "mask before every sum, mean or maximum"
        )
    if subject.own_gradient:
        yield from _of_gradients(subject, setting)


def _padded(setting: Setting) -> Iterator[tuple[str, Batch]]:
    """The batch with another number in the padding of one input."""
    yield "logp", replace(PADDED, logp=np.where(PADDED.mask, PADDED.logp, -0.7))
    yield "old_logp", replace(PADDED, old_logp=np.where(PADDED.mask, PADDED.old_logp, -0.7))
    if Claim.TOKEN_ADVANTAGES in setting.claims:
        yield "token advantages", replace(PADDED, advantage=np.where(PADDED.mask, PADDED.advantage[:, None], 0.3))


def _differs(subject: Subject, batch: Batch, other: Batch) -> bool:
    """Whether the loss of two batches is not the same, beyond rounding."""
    if other.per_token:
        batch = replace(batch, advantage=np.where(batch.mask, batch.advantage[:, None], 0.0))
    found, again = subject.value(batch), subject.value(other)
    return abs(found.value - again.value) > 10 * rounding(found, batch)


def _of_gradients(subject: Subject, setting: Setting) -> Iterator[Suspect]:
    weight = subject(PADDED.with_padding(0.0)).weight
    if weight[~PADDED.mask].any():
        words = "masked slots have a gradient: tokens that the policy did not produce are trained"
        yield Suspect(words, "multiply the gradient by the mask, or leave it to autodiff")
    yield from _on_bounds(subject, setting)
    if Claim.DERIVATIVE in setting.claims and Claim.KNOWN_FORMULA in setting.claims:
        ratio = _to_derivative(subject, [0.05, -0.02]), _to_derivative(subject, [-0.03, 0.01])
        if abs(ratio[0] - 1.0) > 1e-4 and abs(ratio[0] - ratio[1]) <= 1e-4 * abs(ratio[0]):
            words = f"the gradient is {ratio[0]:.5g} times the derivative of the value"
            yield Suspect(words, "look for a wrong closed form, or a stop-gradient that is missing or one too many")


def _on_bounds(subject: Subject, setting: Setting) -> Iterator[Suspect]:
    """The gradient of single tokens exactly on a bound of the clip."""
    if not {Claim.EDGES, Claim.CLIP, Claim.LEVEL_RATIO} <= setting.claims:
        return
    on = [Batch.of([[bound]], [a]) for bound, a in zip(setting.log_bounds, (-1.0, 1.0), strict=True)]
    shares = [float(subject(b).weight[0, 0]) / (setting.expected(b).weight[0][0] or np.nan) for b in on]
    inside = [replace(b, logp=b.logp * (1 - 1e-6), old_logp=b.old_logp * (1 - 1e-6)) for b in on]
    right = all(abs(float(subject(b).weight[0, 0]) / setting.expected(b).weight[0][0] - 1) < 1e-6 for b in inside)
    if right and any(abs(x - 1.0) > 1e-6 for x in shares):
        most = min(shares, key=lambda x: -abs(x - 1.0))
        amount = "0" if most == 0 else f"{most:.4g} times that of a unit inside"
        words = f"exactly on a bound of the clip the gradient is {amount}: it depends on a rule of the library for ties"
        yield Suspect(words, "decide the clip by a comparison of log ratios, in which the bounds are inside")


def _to_derivative(subject: Subject, d: list[float]) -> float:
    """The gradient of the first token, divided by the derivative of the value, on the side without a clip."""
    sign = -1.0 if d[0] > 0 else 1.0
    own, at = Batch.of([d], [sign], base=-1.0), np.zeros((1, 2))
    at[0, 0] = STEP

    def value(by: float) -> float:
        return subject.value(replace(own, logp=own.logp + by * at)).value

    slope = (8 * (value(1) - value(-1)) - (value(2) - value(-2))) / (12 * STEP)
    weight: Floats = subject(own).weight
    return float(weight[0, 0]) / slope if slope else np.nan
