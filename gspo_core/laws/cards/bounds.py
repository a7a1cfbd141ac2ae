"""The bounds of a loss on all four sides: above and below the ratio 1, for good and for bad responses."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.subject import Subject
from gspo_core.objectives.loss import Objective
from gspo_core.objectives.presets import GSPO

from .finding import ProfileFinding


def edge(subject: Subject, advantage: float, direction: float, power: float = 1.0) -> float | None:
    """The smallest |d| at which one token's gradient vanishes; None if it never does up to |d| = 8.

    Where the loss beyond it is the ratio at the bound times A, for a ratio that is this power of the token's own, the bound is
    read off that value: a bisection of the gradient is only as fine as finite differences are.
    """

    def dead(d: float) -> bool:
        found = subject(Batch.of([[direction * d]], [advantage]))
        return abs(float(found.weight[0, 0])) <= 1e-7 + 10 * found.noise * math.exp(max(0.0, direction * d))

    quiet = 500.0 * subject(Batch.of([[0.0]], [1.0])).noise  # a gradient e^d below it cannot be told from none
    grid = [d for d in (1e-5 * 1.5**k for k in range(34)) if direction > 0 or math.exp(-d) > quiet]
    first = next((d for d in grid if dead(d)), None)
    if first is None:
        return None
    low, high = first / 1.5, first
    for _ in range(30):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if dead(middle) else (middle, high)
    return _read_off(subject, advantage, direction, high, power)


def _read_off(subject: Subject, advantage: float, direction: float, near: float, power: float) -> float:
    """The bound by the value beyond it, if that is within the reach of the differences of `near`; else `near`."""
    beyond, inside = (
        abs(subject(Batch.of([[direction * d]], [advantage])).value) for d in (2.0 * near + 2 * subject.kink, 0.0)
    )
    exact = direction * math.log(beyond / inside) / power if beyond > 0 and inside > 0 else math.nan
    return exact if exact > 0.0 and abs(exact - near) <= 1e-3 * near + 2.0 * subject.kink else near


def _round(width: float, error: float) -> float:
    """Rounded to the fewest digits, at least three, that are within the error of the measurement."""
    return next((x for x in (float(f"{width:.{n}g}") for n in range(3, 9)) if abs(x - width) <= error), width)


@dataclass(frozen=True)
class Edges:
    """|log ratio| beyond which one token has no gradient; None if it always has one."""

    good_up: float | None
    good_down: float | None
    bad_up: float | None
    bad_down: float | None
    error: float = 1e-9
    """Error of a width."""
    power: float = 1.0
    """The ratio that is clipped, of a single token, is the token's own to this power."""

    @property
    def widths(self) -> tuple[float, float] | None:
        """(ε_low, ε_high) of the ratio that is clipped, from the sides that are; None if no side is."""
        sides = (self.good_up, self.good_down, self.bad_up, self.bad_down)
        good_up, good_down, bad_up, bad_down = (None if x is None else self.power * x for x in sides)
        up = good_up if good_up is not None else bad_up
        down = bad_down if bad_down is not None else good_down
        found = [w for w in (None if down is None else -math.expm1(-down), None if up is None else math.expm1(up)) if w]
        low, high = (found[0], found[-1]) if found else (0.0, 0.0)
        return (_round(min(low, 0.99), self.error), _round(high, self.error)) if found else None


def edges(subject: Subject, power: float = 1.0) -> Edges:
    """The bounds on all four sides."""
    good, bad = ([edge(subject, a, side, power) for side in (1.0, -1.0)] for a in (1.0, -1.0))
    return Edges(good[0], good[1], bad[0], bad[1], max(1e-9, 4.0 * subject.resolution), power)


def clip(found: Edges, like: Objective = GSPO) -> ProfileFinding:
    """Classifies the four sides, and compares the range with that of `like`."""
    up, down = (None if x is None else math.exp(s * x) for x, s in ((found.good_up, 1), (found.good_down, -1)))
    bad_up, bad_down = (None if x is None else math.exp(s * x) for x, s in ((found.bad_up, 1), (found.bad_down, -1)))
    good = _sides("A > 0", up, down)
    bad = _sides("A < 0", bad_up, bad_down)
    words = f"{good}; {bad}"
    if up is None and down is None and bad_up is None and bad_down is None:
        return ProfileFinding("clip", f"nothing is clipped: {words}", "none", False)
    if up and bad_down and not down and not bad_up:
        return _one_sided(found, like, words)
    if up and bad_up and not bad_down and not down:
        why = "the clip is MIRRORED for A < 0: bad responses that became likelier have no gradient, those that became "
        return ProfileFinding("clip", f"{why}rarer have one. {words}", "mirrored", False)
    if up and down and bad_up and bad_down:
        why = "clipped on BOTH sides for both signs of A: responses that should recover have no gradient"
        return ProfileFinding("clip", f"{why}. {words}", "both", False)
    if up and bad_down and bad_up and not down:
        return ProfileFinding(
            "clip", f"as in the paper, with a ceiling for bad responses (dual clip, or a guard): {words}", "ceiling", False
        )
    return ProfileFinding("clip", f"the clip has a form that is not known here: {words}", "other", False)


def _one_sided(found: Edges, like: Objective, words: str) -> ProfileFinding:
    """The paper's two sides, with its bounds or with swapped ones."""
    own, there = found.widths, (getattr(like.surrogate, "low", None), getattr(like.surrogate, "high", None))
    if own is not None and own == there[::-1] and own != there:
        said = f"the bounds of the clip range are SWAPPED: 1 − {own[0]:g} to 1 + {own[1]:g}. {words}"
        return ProfileFinding("clip", said, "swapped", False)
    return ProfileFinding("clip", f"one-sided, as in the paper: {words}", "paper", True)


def _sides(sign: str, up: float | None, down: float | None) -> str:
    sides = [f"above {up:.6g}" if up is not None else "", f"below {down:.6g}" if down is not None else ""]
    there = " and ".join(x for x in sides if x)
    return f"for {sign} the gradient is 0 at ratios {there}" if there else f"for {sign} the gradient never vanishes"
