"""Measurements of what a loss computes: each calls the loss on small batches and returns one sentence with its numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.subject import LossError, Subject


@dataclass(frozen=True)
class ProfileFinding:
    """One measured property of a loss."""

    topic: str
    """The property."""
    sentence: str
    """The result in words, with numbers."""
    kind: str
    """The result as one word, for programs."""
    agrees: bool
    """Whether it is the same for GSPO as in the paper (eq. 5)."""


def _near(x: float, y: float) -> bool:
    return math.isfinite(x) and abs(x - y) <= 1e-5 * max(1.0, abs(y))


def sign(subject: Subject) -> ProfileFinding:
    """∂loss/∂logp of one token with A = 1, on policy: −1."""
    slope = float(subject(Batch.of([[0.0]], [1.0])).weight[0, 0])
    if _near(slope, -1.0):
        return ProfileFinding("sign", "on policy, one token with A = 1 has the gradient −1, as in REINFORCE", "right", True)
    if slope > 0:
        words = f"a good response is made LESS likely: one token with A = 1 has the gradient {slope:.6g}, the paper's is −1"
        return ProfileFinding("sign", words, "reversed", False)
    words = f"on policy, one token with A = 1 has the gradient {slope:.6g}, the paper's is −1"
    return ProfileFinding("sign", words, "scaled", False)


WEIGHTS = {
    "responses": ((0.5, 0.5), "every response has the same weight, 1/N"),
    "tokens": (
        (0.25, 0.75),
        "a response has the weight |y_i|/Σ|y|: every token has the same weight, and long responses weigh more",
    ),
    "sum": ((0.5, 1.5), "a response has the weight |y_i|/N: sums over tokens are not divided by the length"),
    "width": ((0.125, 0.375), "a response has the weight |y_i|/(N T) with T the padded width: short responses weigh less"),
    "total": ((1.0, 1.0), "every response has the weight 1: the loss is a sum, not a mean"),
    "all tokens": ((1.0, 3.0), "every token has the weight 1: the loss is a sum over all tokens"),
}


def _mass(subject: Subject, batch: Batch) -> np.ndarray:
    return np.asarray(-np.where(batch.mask, subject(batch).weight, 0.0).sum(axis=1))


def weighting(subject: Subject) -> ProfileFinding:
    """Two responses of 1 and 3 tokens in a batch of width 4, A = 1, on policy: the contribution of each to the loss.

    If the values fit no known weighting (a weight held constant, times log π), the sums of the gradients are compared.
    """
    batch = Batch.of([[0.0] * 4] * 2, [1.0, 1.0], [[1, 0, 0, 0], [1, 1, 1, 0]])
    only = [subject(replace(batch, advantage=np.array(a))).value for a in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])]
    added = np.array([only[0] - only[1], only[0] - only[2]])
    for what, signed in (("loss", added), ("gradient", _mass(subject, batch))):
        share = signed * np.sign(signed.sum())  # a wrong sign is reported by `sign`
        numbers = f"responses of 1 and 3 tokens get {share[0]:.4g} and {share[1]:.4g} of the {what}"
        for kind, (expected, words) in WEIGHTS.items():
            if all(_near(float(m), e) for m, e in zip(share, expected, strict=True)):
                paper = "" if kind == "responses" else "; the paper gives 0.5 and 0.5"
                return ProfileFinding("weighting", f"{words} ({numbers}{paper})", kind, kind == "responses")
    words = f"the weighting of responses is none that is known here ({numbers}; the paper gives 0.5 and 0.5)"
    return ProfileFinding("weighting", words, "other", False)


def empty_rows(subject: Subject) -> ProfileFinding:
    """One response with a token and one row without: whether the second one counts."""
    slope = float(subject(Batch.of([[0.0], [0.0]], [1.0, 1.0], [[1], [0]])).weight[0, 0])
    alone = float(subject(Batch.of([[0.0]], [1.0])).weight[0, 0])
    if _near(slope, alone):
        return ProfileFinding("empty rows", "rows without a token do not count", "ignored", True)
    words = f"rows without a token are counted: next to one, a response keeps {slope / alone:.4g} of its gradient"
    return ProfileFinding("empty rows", words, "counted", False)


def pooling(subject: Subject) -> ProfileFinding:
    """Two tokens with d = ±2e-4: the quotient of their gradients."""
    weight = subject(Batch.of([[2e-4, -2e-4]], [1.0])).weight[0]
    ratio = float(weight[0] / weight[1]) if weight[1] else math.nan
    if abs(ratio - 1.0) < 1e-5:
        return ProfileFinding("ratio", "all tokens of a response share one importance ratio", "sequence", True)
    if abs(ratio - math.exp(4e-4)) < 1e-5:
        words = "every token has its own importance ratio, as in GRPO; the paper has one for the whole response"
        return ProfileFinding("ratio", words, "token", False)
    words = (
        f"the gradients of two tokens with log ratios ±2e-4 have the quotient {ratio:.6g}; in the paper it is 1, in GRPO 1.0004"
    )
    return ProfileFinding("ratio", words, "other", False)


def exponent(subject: Subject) -> ProfileFinding:
    """Exponent f of the loss of 4 equal tokens as a function of their log ratio c: the loss grows like e^{f c}."""
    c, length = 2e-5, 4
    up, down = (abs(subject(Batch.of([[x] * length], [1.0])).value) for x in (c, -c))
    f = (math.log(up) - math.log(down)) / (2 * c) if min(up, down) > 0 else math.nan
    if abs(f - 1.0) < 1e-3:
        return ProfileFinding(
            "power", "a response's ratio is a mean over its tokens: four tokens with ratio r have ratio r", "mean", True
        )
    if abs(f - length) < 1e-2:
        words = (
            "a response's ratio is exp of the SUM of its log ratios: four tokens with ratio r have ratio r⁴. The paper takes "
        )
        return ProfileFinding(
            "power", words + "the mean (the power 1/|y|), without which the ratio explodes with the length", "sum", False
        )
    words = f"four tokens with ratio r have the ratio r^{f:.4g}; in the paper it is r"
    return ProfileFinding("power", words, "other", False)


def edge(subject: Subject, advantage: float, direction: float) -> float | None:
    """The smallest |d| at which one token's gradient vanishes; None if it never does up to |d| = 8."""

    def dead(d: float) -> bool:
        found = subject(Batch.of([[direction * d]], [advantage]))
        return abs(float(found.weight[0, 0])) <= 1e-7 + 10 * found.noise * math.exp(max(0.0, direction * d))

    grid = [1e-5 * 1.5**k for k in range(34)]
    first = next((d for d in grid if dead(d)), None)
    if first is None:
        return None
    low, high = first / 1.5, first
    for _ in range(30):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if dead(middle) else (middle, high)
    return high


def _round(width: float) -> float:
    """Rounded to three digits if that is within the error of a bound found by finite differences, else unchanged."""
    short = float(f"{width:.3g}")
    return short if abs(short - width) < 2e-5 else width


@dataclass(frozen=True)
class Edges:
    """|log ratio| beyond which one token has no gradient; None if it always has one."""

    good_up: float | None
    good_down: float | None
    bad_up: float | None
    bad_down: float | None

    @property
    def widths(self) -> tuple[float, float] | None:
        """(ε_low, ε_high) from the sides that are clipped; None if no side is."""
        up = self.good_up if self.good_up is not None else self.bad_up
        down = self.bad_down if self.bad_down is not None else self.good_down
        found = [w for w in (None if down is None else -math.expm1(-down), None if up is None else math.expm1(up)) if w]
        low, high = (found[0], found[-1]) if found else (0.0, 0.0)
        return (_round(min(low, 0.99)), _round(high)) if found else None


def edges(subject: Subject) -> Edges:
    """The bounds on all four sides."""
    return Edges(*(edge(subject, a, side) for a in (1.0, -1.0) for side in (1.0, -1.0)))


def clip(found: Edges) -> ProfileFinding:
    """Classifies the four sides."""
    up, down = (None if x is None else math.exp(s * x) for x, s in ((found.good_up, 1), (found.good_down, -1)))
    bad_up, bad_down = (None if x is None else math.exp(s * x) for x, s in ((found.bad_up, 1), (found.bad_down, -1)))
    good = _sides("A > 0", up, down)
    bad = _sides("A < 0", bad_up, bad_down)
    words = f"{good}; {bad}"
    if up is None and down is None and bad_up is None and bad_down is None:
        return ProfileFinding("clip", f"nothing is clipped: {words}", "none", False)
    if up and bad_down and not down and not bad_up:
        return ProfileFinding("clip", f"one-sided, as in the paper: {words}", "paper", True)
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


def _sides(sign: str, up: float | None, down: float | None) -> str:
    sides = [f"above {up:.6g}" if up is not None else "", f"below {down:.6g}" if down is not None else ""]
    there = " and ".join(x for x in sides if x)
    return f"for {sign} the gradient is 0 at ratios {there}" if there else f"for {sign} the gradient never vanishes"


def credit(subject: Subject) -> ProfileFinding:
    """Two of three tokens with advantages 1 and −0.5, on policy; two rows, so that [N] and [N, T] cannot be mistaken."""
    rows = Batch.of([[0.0, 0.0, 0.0]] * 2, [1.0, 1.0])
    whole = subject(rows).weight[0]
    batch = replace(rows, advantage=np.array([[1.0, -0.5, 1.0], [1.0, 1.0, 1.0]]))
    try:
        weight = subject(batch).weight[0]
    except LossError:
        return ProfileFinding("token advantages", "accepts one advantage per response only, as in eq. 5", "refused", True)
    shares = weight / np.where(whole == 0, np.nan, whole)
    numbers = f"advantages 1 and −0.5 give the two tokens {shares[0]:.4g} and {shares[1]:.4g}"
    if _near(float(shares[0]), 1.0) and _near(float(shares[1]), -0.5):
        return ProfileFinding("token advantages", f"the gradient of every token has its own advantage ({numbers})", "own", True)
    if _near(float(shares[0]), float(shares[1])):
        words = (
            f"token advantages COLLAPSE: all tokens of a response get the same gradient ({numbers}; eq. 17 gives 1 and −0.5)"
        )
        return ProfileFinding("token advantages", words, "collapsed", False)
    return ProfileFinding(
        "token advantages", f"token advantages are mixed ({numbers}; eq. 17 gives 1 and −0.5)", "mixed", False
    )
