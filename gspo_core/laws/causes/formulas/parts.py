"""Suspects of the parts that have parameters, gates and surrogates other than the clip: another number, or no gate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.batch import Batch, Floats
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import LossError, Subject
from gspo_core.objectives.clipped_surrogates import Clip, DualClip, Unclipped
from gspo_core.objectives.gates import OffPolicyMask, TokenClip
from gspo_core.objectives.held_weights import BandWeight
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.soft_surrogates import TruncatedWeight
from gspo_core.types import Array, Gain, Gated, Layout, Namespace, Surrogate

from .regions import REGIONS, edges, sides

GRID = [0.0, *(10.0 ** (k / 6) for k in range(-24, 13))]
"""Values of a parameter between which the one of the loss is looked for."""


@dataclass(frozen=True)
class OtherMask:
    """The off-policy mask with another statistic, or for other responses."""

    statistic: Callable[[Array], float]
    """Token log ratios of one response ↦ what is compared with δ."""
    delta: float
    sign: float = -1.0
    """Sign of the advantages that are masked; 0: of either sign."""

    def __call__(self, d: Array, advantage: Array, layout: Layout, per_token: bool) -> Gated:
        """One response, as the kit evaluates gates that it does not know."""
        drop = self.statistic(d[0]) > self.delta
        kept = np.where(((advantage * self.sign > 0) | (self.sign == 0)) & drop, 0.0, advantage)
        return Gated(d, kept, layout.valid)


@dataclass(frozen=True)
class BySign:
    """One surrogate for good responses, and another for bad ones."""

    good: Surrogate
    bad: Surrogate
    exact: bool

    def __call__(self, xp: Namespace, log_ratio: Array, advantage: Array) -> Gain:
        """(gain, slope), elementwise."""
        good, bad = (part(xp, log_ratio, advantage) for part in (self.good, self.bad))
        return Gain(*(xp.where(advantage > 0, one, other) for one, other in zip(good, bad, strict=True)))


@dataclass(frozen=True)
class BothSides:
    """Token log ratios clipped below and above, whatever the sign of A."""

    low: float
    high: float

    def __call__(self, d: Array, advantage: Array, layout: Layout, per_token: bool) -> Gated:
        """Clipped tokens are closed."""
        return Gated(np.clip(d, -self.low, self.high), advantage, layout.valid & (d >= -self.low) & (d <= self.high))


def _with(role: str, part: Any) -> Callable[[Objective], Objective]:
    return lambda objective: replace(objective, **{role: part})


def _off_policy(gate: OffPolicyMask) -> list[tuple[str, Any]]:
    """Off-policy masks by another statistic."""
    words = "the off-policy mask looks at"
    return [
        (f"{words} the sum of a response's log ratios, not at their mean", OtherMask(lambda d: -float(d.sum()), gate.delta)),
        (f"{words} single tokens, not at the mean of a response", OtherMask(lambda d: -float(d.min()), gate.delta)),
        (
            f"{words} both sides: a response that became likelier is masked, too",
            OtherMask(lambda d: abs(float(d.mean())), gate.delta),
        ),
        (f"{words} the wrong side: responses that became likelier", OtherMask(lambda d: float(d.mean()), gate.delta)),
        ("the off-policy mask acts on good responses, not on bad ones", OtherMask(lambda d: -float(d.mean()), gate.delta, 1.0)),
        ("the off-policy mask acts on bad and good responses", OtherMask(lambda d: -float(d.mean()), gate.delta, 0.0)),
    ]


def _token_clip(gate: TokenClip) -> list[tuple[str, Any]]:
    """Token clips with other sides and units."""
    nats = TokenClip(-math.log1p(-gate.low) if gate.low < 1 else gate.low, math.log1p(gate.high))
    return [
        ("tokens are clipped on both sides for both signs of A", BothSides(gate.low, gate.high)),
        ("the bounds of the token clip are applied to the ratio, 1 ± b, and not to the log ratio", nats),
        ("the bounds of the token clip are swapped", TokenClip(gate.high, gate.low)),
    ]


def _tokens() -> Iterator[Batch]:
    """Single tokens on which a parameter may show, of either sign of A."""
    for x in (1.0, 4.0, -1.0, -4.0, 0.3, -0.3, 0.0):
        for a in (1.0, -1.0):
            yield Batch.of([[x]], [a])
    yield from (Batch.of([[x] * 4], [a]) for x in (1.0, -1.0) for a in (1.0, -1.0))


def _solved(found: float, value: Callable[[float], float]) -> Iterator[float]:
    """The parameters on the grid's intervals at which the model has the value of the loss."""
    gaps = [value(p) - found for p in GRID]
    for low, high, first, second in zip(GRID, GRID[1:], gaps, gaps[1:], strict=False):
        if not (math.isfinite(first) and math.isfinite(second)) or first * second > 0 or first == second:
            continue
        left, right = low, high
        for _ in range(60):
            middle = 0.5 * (left + right)
            left, right = (middle, right) if (value(middle) - found) * first > 0 else (left, middle)
        yield 0.0 if right < 1e-12 else right


def _numbers(subject: Subject, setting: Setting, role: str, part: Any) -> Iterator[Suspect]:
    """The part with another value of one parameter, read off the loss of single tokens."""
    for name in (field.name for field in fields(part) if isinstance(getattr(part, field.name), float)):
        own = getattr(part, name)
        for batch in _tokens():

            def value(p: float, batch: Batch = batch, name: str = name) -> float:
                try:
                    wrong = replace(setting, like=_with(role, replace(part, **{name: p}))(setting.like))
                    return wrong.expected(batch).value
                except (ValueError, OverflowError, ZeroDivisionError):
                    return math.nan

            found = subject(batch).value
            for p in _solved(found, value) if abs(found - value(own)) > 1e-9 else ():
                alike = [f.name for f in fields(part) if getattr(part, f.name) == own]
                for changed in [[name], alike] if len(alike) > 1 else [[name]]:
                    verb = "are" if len(changed) > 1 else "is"
                    words = f"{' and '.join(changed)} of the {role} {verb} {p:.6g}, not {own:.6g}".replace("_", " ")
                    fix = f"use {own:.6g}; if {p:.6g} is intended, say so: like= with {type(part).__name__}"
                    yield Suspect(words, fix, _with(role, replace(part, **dict.fromkeys(changed, p))))


def _exchanged(role: str, part: Any) -> list[Suspect]:
    """The part with two of its parameters exchanged."""
    names = [field.name for field in fields(part) if isinstance(getattr(part, field.name), float)]
    found = []
    for one, other in itertools.combinations(names, 2):
        if getattr(part, one) == getattr(part, other):
            continue
        words = f"{one} and {other} of the {role} are exchanged".replace("_", " ")
        try:
            wrong = replace(part, **{one: getattr(part, other), other: getattr(part, one)})
        except ValueError:
            continue
        found.append(Suspect(words, f"apply {part}", _with(role, wrong)))
    return found


def _dropped(weight: TruncatedWeight) -> Suspect:
    """Units beyond the cap are left out."""
    words = f"units whose ratio is above the cap {weight.cap:g} are dropped: their weight is 0, not the cap"
    return Suspect(words, f"apply {weight}", _with("surrogate", BandWeight(max(weight.floor, 1e-300), weight.cap)))


def _one_sided(surrogate: Surrogate) -> list[Suspect]:
    """The surrogate for one sign of A only, the plain ratio for the other."""
    name, plain = type(surrogate).__name__, Unclipped()
    sides = [("good", "bad", surrogate, plain), ("bad", "good", plain, surrogate)]
    return [
        Suspect(
            f"{name} acts on {acts} responses only: for {other} ones the plain ratio is left",
            f"apply {surrogate} for both signs of A",
            _with("surrogate", BySign(good, bad, surrogate.exact)),
        )
        for acts, other, good, bad in sides
    ]


def _not_counted(setting: Setting) -> Suspect:
    """Responses that have no loss leave the denominator."""

    def factor(batch: Batch) -> Floats:
        whole = replace(batch, advantage=np.where(batch.advantage == 0.0, 1.0, batch.advantage))
        alone = (setting.expected(whole.rows(slice(i, i + 1))) for i in range(len(batch.mask)))
        live = sum(row.scale > 0 for row in alone)
        return np.full(len(batch.mask), setting.count(batch) / max(1, live) if batch.denominator is None else 1.0)

    words = "responses that the gate masks leave the denominator, too"
    return Suspect(words, "divide by the number of all responses with a token", factor=factor)


def _thresholds(subject: Subject, gate: OffPolicyMask) -> Iterator[Suspect]:
    """The off-policy mask with the δ at which a bad token loses its loss."""
    low, high = 0.0, 16.0
    if subject(Batch.of([[-high]], [-1.0])).value != 0.0:
        return
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if subject(Batch.of([[-middle]], [-1.0])).value == 0.0 else (middle, high)
    words = f"delta of the gate is {high:.6g}, not {gate.delta:.6g}"
    yield Suspect(words, f"use {gate.delta:.6g}", _with("gate", OffPolicyMask(float(f"{high:.9g}"))))


def parts(subject: Subject, setting: Setting) -> list[Suspect]:
    """All suspects of the gate, and of a surrogate that is not a clip."""
    like, found = setting.like, list[Suspect]()
    gate, surrogate = like.gate, like.surrogate
    if gate is not None:
        name = type(gate).__name__
        found.append(Suspect(f"the gate is missing: {name}", f"apply {gate}", _with("gate", None)))
        special = (
            _off_policy(gate) if isinstance(gate, OffPolicyMask) else _token_clip(gate) if isinstance(gate, TokenClip) else []
        )
        special += sides(gate) if isinstance(gate, REGIONS) else []
        found += [Suspect(words, f"apply {gate}", _with("gate", other)) for words, other in special]
        found += [_not_counted(setting)] if isinstance(gate, OffPolicyMask) else []
    if not isinstance(surrogate, (Clip, DualClip, Unclipped)):
        found += _one_sided(surrogate)
    if isinstance(surrogate, TruncatedWeight):
        found.append(_dropped(surrogate))
    try:
        if isinstance(gate, OffPolicyMask):
            found += _thresholds(subject, gate)
        if isinstance(gate, REGIONS):
            found += [Suspect(words, f"use {gate}", _with("gate", other)) for words, other in edges(subject, gate)]
        for role, part in (("gate", gate), ("surrogate", surrogate)):
            if is_dataclass(part) and not isinstance(part, (Clip, DualClip, OffPolicyMask, *REGIONS)):
                found += _exchanged(role, part)
                found += _numbers(subject, setting, role, part)
    except LossError:
        return found
    return found
