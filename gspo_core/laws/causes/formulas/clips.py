"""Suspects of the surrogate: other bounds, bounds on other sides, or the surrogate of another preset."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import LossError, Subject
from gspo_core.objectives.clipped_surrogates import Clip, DualClip
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.presets import PRESETS
from gspo_core.types import Array, Gain, Namespace, Surrogate

FAR = 4.0
"""A log ratio beyond all usual bounds, and below the usual overflow guards."""


@dataclass(frozen=True)
class Bounded:
    """A · min(max(s, below), above), with other bounds for each sign of A; 0 or infinity where there is none."""

    exact: ClassVar[bool] = True

    good_below: float
    good_above: float
    bad_below: float
    bad_above: float
    through: bool = False
    """Whether the gradient ignores the bounds (a straight-through estimator)."""
    dropped: bool = False
    """Whether a unit beyond a bound has loss 0."""

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(gain, slope), elementwise."""
        ratio, good = xp.exp(log_ratio), advantage > 0
        below = xp.where(good, self.good_below, self.bad_below)
        above = xp.where(good, self.good_above, self.bad_above)
        outside = (ratio < below) | (ratio > above)
        kept = xp.where(outside, 0.0, ratio) if self.dropped else xp.minimum(xp.maximum(ratio, below), above)
        slope = advantage * ratio
        return Gain(advantage * kept, slope if self.through else xp.where(outside, 0.0, slope))


def _surrogate(surrogate: Surrogate) -> Callable[[Objective], Objective]:
    return lambda objective: replace(objective, surrogate=surrogate)


def _sides(low: float, high: float) -> list[Suspect]:
    """The paper's two bounds on other sides: every subset of the four."""
    found, fix = [], f"min(s·A, clip(s, {1 - low:.6g}, {1 + high:.6g})·A): above the range for A > 0, below it for A < 0"
    for sides in itertools.product([False, True], repeat=4):
        good_below, good_above, bad_below, bad_above = sides
        if sides == PAPER:
            continue
        where = (
            1.0 - low if good_below else 0.0,
            1.0 + high if good_above else math.inf,
            1.0 - low if bad_below else 0.0,
            1.0 + high if bad_above else math.inf,
        )
        found.append(Suspect(_named(sides), fix, _surrogate(Bounded(*where))))
    paper = (0.0, 1.0 + high, 1.0 - low, math.inf)
    found.append(
        Suspect("beyond the clip range the gradient goes on as if it were not clipped", fix, _surrogate(Bounded(*paper, True)))
    )
    both = (1.0 - low, 1.0 + high) * 2
    for bounds in (paper, both):
        words = "units beyond the clip range have loss 0 in place of the value at the bound"
        found.append(Suspect(words, fix, _surrogate(Bounded(*bounds, dropped=True))))
    return found


PAPER = (False, True, True, False)
NAMED: dict[tuple[bool, ...], str] = {
    (False, False, False, False): "nothing is clipped",
    (True, True, True, True): "clipped on both sides for both signs of A: the minimum is missing",
    (False, True, False, True): "the clip is mirrored for A < 0: it acts above the range, where it must act below",
    (True, False, True, False): "the clip is mirrored for A > 0: it acts below the range, where it must act above",
    (True, False, False, True): "the maximum in place of the minimum: the clip is mirrored for both signs of A",
    (False, True, False, False): "only good responses are clipped: the lower bound is missing for A < 0",
    (False, False, True, False): "only bad responses are clipped: the upper bound is missing for A > 0",
}


def _named(sides: tuple[bool, ...]) -> str:
    names = ("below for A > 0", "above for A > 0", "below for A < 0", "above for A < 0")
    return NAMED.get(sides, "clipped " + ", ".join(name for name, there in zip(names, sides, strict=True) if there))


def _flat(subject: Subject, advantage: float, side: float) -> float | None:
    """|loss| of one token far outside, if it is the same further outside."""
    try:
        near, far = (abs(subject(Batch.of([[side * x]], [advantage])).value) for x in (FAR, FAR + 1.0))
    except LossError:
        return None
    return near if math.isfinite(near) and abs(near - far) <= 1e-6 * (1.0 + near) else None


def _range(found: tuple[float, float], like: tuple[float, float]) -> str:
    """What a measured clip range is, compared with the one that is expected."""
    low, high = found

    def near(pair: tuple[float, float]) -> bool:
        return math.isclose(low, pair[0], rel_tol=1e-6) and math.isclose(high, pair[1], rel_tol=1e-6)

    if near((like[1], like[0])):
        return "the bounds of the clip range are swapped"
    if near((-math.expm1(-like[0]), math.expm1(like[1]))):
        return "the clip range is applied to the log ratio, in nats"
    return f"the clip range is 1 − {low:.6g} to 1 + {high:.6g}, not 1 − {like[0]:.6g} to 1 + {like[1]:.6g}"


def _measured(subject: Subject, like: tuple[float, float]) -> list[Suspect]:
    """The clip range and the ceiling that the loss has, by its values far outside."""
    good, bad, ceiling = _flat(subject, 1.0, 1.0), _flat(subject, -1.0, -1.0), _flat(subject, -1.0, 1.0)
    low, high = like[0] if bad is None else 1.0 - bad, like[1] if good is None else good - 1.0
    if not (0.0 <= low < 1.0 and high >= 0.0):
        return []
    found = []
    fix = (
        f"use {like[0]:.6g} and {like[1]:.6g}; if another range is intended, say so: like=GSPO.with_clip({low:.6g}, {high:.6g})"
    )
    if not (math.isclose(low, like[0], rel_tol=1e-6, abs_tol=1e-9) and math.isclose(high, like[1], rel_tol=1e-6, abs_tol=1e-9)):
        found.append(Suspect(_range((low, high), like), fix, _surrogate(Clip(low, high))))
    if ceiling is not None and ceiling > 1.0 + high:
        words = f"the loss of bad responses is capped at the ratio {ceiling:.6g} (dual clip, or a guard)"
        dual = Suspect(words, "remove the cap, or declare it: like= with DualClip", _surrogate(DualClip(*like, ceiling)))
        below = _flat(subject, 1.0, -1.0)
        if below is not None and below > 1e-9:
            words = f"the ratio is held between {below:.6g} and {ceiling:.6g}: log ratios are clamped before the clip"
            fix = "clip the ratio alone; a guard against overflow belongs far outside, at log ratios of 50"
            bounds = Bounded(below, min(1.0 + high, ceiling), max(1.0 - low, below), ceiling)
            found.append(Suspect(words, fix, _surrogate(bounds)))
        found += [dual, replace(dual, objective=_surrogate(DualClip(low, high, ceiling)), sentence=f"{words}, and the range")]
    return found


def clips(subject: Subject, setting: Setting) -> list[Suspect]:
    """All suspects for an objective with a clip range; surrogates of presets for every objective."""
    own, found = setting.like.surrogate, list[Suspect]()
    if isinstance(own, (Clip, DualClip)):
        found += [*_measured(subject, (own.low, own.high)), *_sides(own.low, own.high)]
        found.append(Suspect("the ceiling of the dual clip is missing", "add the cap", _surrogate(Clip(own.low, own.high))))
    for name, preset in PRESETS.items():
        if not isinstance(preset.surrogate, Clip):
            words = f"the surrogate is that of the preset {name}, {preset.surrogate}"
            found.append(Suspect(words, f"use {own}, or check it with like={name}", _surrogate(preset.surrogate)))
    return found
