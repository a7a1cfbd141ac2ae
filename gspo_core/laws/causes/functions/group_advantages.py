"""Wrong group advantages: another mean, another size, another epsilon, other groups, or rounding that is blown up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gspo_core.advantages.normalisers import Centred, LeaveOneOut, Normaliser, ZScore
from gspo_core.laws.chapters.functions.group_advantages import AdvantageFunction, AdvantageSetting, Rewards
from gspo_core.laws.kit.batch import Floats
from gspo_core.laws.kit.cause import Cause
from gspo_core.laws.kit.runner import LawVerdict
from gspo_core.laws.kit.subject import LossError

from .explained import Wrong, explained

PROBES = (
    Rewards([1.0, 0.0], [7, 7]),
    Rewards([2.0, 0.5, 0.25, 1.0], [7, 3, 7, 3]),
    Rewards([1.0, 0.0, 0.75, 3.0, -2.0, 0.5, 0.25], [3, 3, 3, 7, 7, 5, 7]),
    Rewards([0.25, 4.0, 1.0, 0.5], [1, 1, 1, 2]),
    Rewards([0.5, 0.5, 0.5, 1.0, 0.0], [1, 1, 1, 4, 4]),
)
"""Groups of several sizes, one of them a single response, one of equal rewards, and two that take turns."""
EPS = (0.0, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3)
BLOWN_UP = 1e-3
"""Size of an advantage that is a rounding error of the mean divided by something small."""
CENTRES = {
    "group": "the mean of the whole group is subtracted, the response's own reward included",
    "others": "the mean of the other responses is subtracted, without the response's own reward",
    "batch": "the mean of the batch is subtracted, not that of the group",
    "none": "no mean is subtracted",
}
SCALES = {
    "none": "the deviation is not divided by a standard deviation",
    "group": "the deviation is divided by the standard deviation of the group",
    "batch": "the deviation is divided by the standard deviation of the batch, not of the group",
    "root": "the epsilon is under the root, √(var + eps)",
    "variance": "the deviation is divided by the variance, not by the standard deviation",
    "range": "the deviation is divided by the range of the group's rewards",
}


@dataclass(frozen=True)
class Formula:
    """A way to compute group advantages."""

    centre: str
    scale: str
    ddof: int = 0
    eps: float = 0.0
    sign: float = 1.0
    lone: bool = False
    """Whether a single response keeps its reward."""
    by_position: bool = False
    """Whether groups are pieces of equal size, whatever the ids."""

    def __call__(self, reward: Floats, group: Floats) -> Floats:
        """[N] advantages; 0 where the deviations of a group are."""
        if self.by_position and len(reward) % len(set(group.tolist())) == 0:
            group = np.floor(np.arange(len(reward)) / (len(reward) // len(set(group.tolist()))))
        out = np.zeros(len(reward))
        for i, r in enumerate(reward):
            own = reward[group == group[i]]
            if self.lone and len(own) == 1:
                out[i] = r
                continue
            size, gap = self._size(own, reward), r - self._centre(own, reward, r)
            out[i] = self.sign * gap / size if abs(gap) > 1e-12 and size > 1e-12 else 0.0
        return out

    def _centre(self, own: Floats, reward: Floats, r: float) -> float:
        if self.centre == "others":
            return float((own.sum() - r) / (len(own) - 1)) if len(own) > 1 else r
        return {"group": float(own.mean()), "batch": float(reward.mean()), "none": 0.0}[self.centre]

    def _size(self, own: Floats, reward: Floats) -> float:
        if self.scale == "none":
            return 1.0
        of = reward if self.scale == "batch" else own
        std = float(of.std(ddof=self.ddof)) if len(of) > self.ddof else 0.0
        sizes = {"root": math.sqrt(std**2 + self.eps), "variance": std**2 + self.eps, "range": float(np.ptp(own)) + self.eps}
        return sizes.get(self.scale, std + self.eps)


def _right(like: Normaliser) -> Formula | None:
    """The stated normaliser as a formula; None for one that is not known here."""
    if isinstance(like, ZScore):
        return Formula("group", "group", like.ddof, like.eps)
    known = {Centred: Formula("group", "none"), LeaveOneOut: Formula("others", "none")}
    return known.get(type(like))


def _changes(right: Formula) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every single difference: in words, and the fields that it changes."""
    yield from ((words, {"centre": name}) for name, words in CENTRES.items() if name != right.centre)
    yield from ((words, {"scale": name}) for name, words in SCALES.items() if name != right.scale)
    yield "the sign is flipped", {"sign": -1.0}
    yield "a single response keeps its reward: its group has no mean to subtract", {"lone": True}
    yield "groups are formed by position, as pieces of equal size, and not by group id", {"by_position": True}
    if right.scale != "none":
        other = 1 - right.ddof
        divisor = {0: "G", 1: "G − 1"}
        words = f"the standard deviation is that with {divisor[other]}, ddof = {other}, not {divisor[right.ddof]}"
        yield words, {"ddof": other}
        words = "{:g} is added to the standard deviation, not {:g}"
        yield from ((words.format(eps, right.eps), {"eps": eps}) for eps in EPS if eps != right.eps)


def _suspects(right: Formula) -> Iterator[tuple[str, Formula]]:
    """One difference, then two."""
    changes = list(_changes(right))
    yield from ((words, replace(right, **change)) for words, change in changes)
    for (words, one), (more, two) in itertools.combinations(changes, 2):
        if not one.keys() & two.keys():
            yield f"{words}; and {more}", replace(right, **one, **two)


def _measured(subject: AdvantageFunction) -> Iterator[Wrong]:
    """What happens to a group of equal rewards."""
    for rewards in ([0.5, 0.5], [0.1] * 3, [0.95] * 8, [1.0]):
        group = "a group of one response" if len(rewards) == 1 else "a group of equal rewards"
        fix = "set the advantages of a group to 0 where its rewards are all equal"
        found = subject(Rewards(rewards, [7] * len(rewards)))
        if np.isnan(found).any():
            yield Wrong(f"{group} has the advantage NaN, as 0/0 is", fix, None)
        elif found.any() and len(rewards) > 1:
            words = f"in {group} a rounding error of the mean is divided by a standard deviation of nearly 0"
            small = f"{group} has advantages of about {np.abs(found).max():.1g}, a rounding error of the mean, and not 0"
            yield Wrong(words if np.abs(found).max() > BLOWN_UP else small, fix, None)


def causes(
    subject: AdvantageFunction, setting: AdvantageSetting, verdicts: Sequence[LawVerdict], seed: int = 0
) -> tuple[Cause, ...]:
    """The causes of the broken laws."""
    return explained(list(_wrongs(subject, setting.like)), verdicts, setting, seed)


def _wrongs(subject: AdvantageFunction, like: Normaliser) -> Iterator[Wrong]:
    try:
        found, right = [subject(case) for case in PROBES], _right(like)
        measured = list(_measured(subject))
    except LossError:
        return
    if right is not None and not _agrees(right, found):
        fix = f"compute the advantages of {like}"
        for words, formula in _suspects(right):
            if _agrees(formula, found):
                yield Wrong(words, fix, AdvantageFunction(words, formula))
                break
    yield from measured


def _agrees(formula: Callable[[Floats, Floats], Floats], found: Sequence[Floats]) -> bool:
    """Whether the formula gives these advantages; those of equal rewards, which may be NaN, are looked at elsewhere."""
    for case, own in zip(PROBES, found, strict=True):
        reward, group = np.array(case.reward), np.array(case.group)
        told = ~np.isnan(own)
        if own.shape != reward.shape or not np.allclose(formula(reward, group)[told], own[told], rtol=1e-7, atol=1e-9):
            return False
    return True
