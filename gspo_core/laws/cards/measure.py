"""Measurements of what a loss computes: each calls the loss on small batches and returns one sentence with its numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.subject import LossError, Subject

from .bounds import Edges
from .finding import ProfileFinding


def _near(x: float, y: float, noise: float = 0.0) -> bool:
    """Equal to 1e-5, or to the noise of finite differences."""
    return math.isfinite(x) and abs(x - y) <= (1e-5 + 4.0 * noise) * max(1.0, abs(y))


def sign(subject: Subject) -> ProfileFinding:
    """∂loss/∂logp of one token with A = 1, on policy: −1."""
    found = subject(Batch.of([[0.0]], [1.0]))
    slope = float(found.weight[0, 0])
    if _near(slope, 0.0, found.noise):
        words = "on policy, one token with A = 1 has the gradient 0: log π is detached, and nothing is learnt"
        return ProfileFinding("sign", words, "detached", False)
    if _near(slope, -1.0, found.noise):
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
    noise = subject(batch).noise
    for what, signed in (("loss", added), ("gradient", _mass(subject, batch))):
        share = signed * np.sign(signed.sum())  # a wrong sign is reported by `sign`
        numbers = f"responses of 1 and 3 tokens get {share[0]:.4g} and {share[1]:.4g} of the {what}"
        for kind, (expected, words) in WEIGHTS.items():
            if all(_near(float(m), e, noise) for m, e in zip(share, expected, strict=True)):
                paper = "" if kind == "responses" else "; the paper gives 0.5 and 0.5"
                return ProfileFinding("weighting", f"{words} ({numbers}{paper})", kind, kind == "responses")
    words = f"the weighting of responses is none that is known here ({numbers}; the paper gives 0.5 and 0.5)"
    return ProfileFinding("weighting", words, "other", False)


def empty_rows(subject: Subject) -> ProfileFinding:
    """One response with a token and one row without: whether the second one counts."""
    if not subject.names.empty_rows:
        words = "rows without a token are left out of every call, and not measured"
        return ProfileFinding("empty rows", words, "never given", True)
    found = subject(Batch.of([[0.0], [0.0]], [1.0, 1.0], [[1], [0]]))
    slope, alone = float(found.weight[0, 0]), float(subject(Batch.of([[0.0]], [1.0])).weight[0, 0])
    if _near(slope, alone, found.noise):
        return ProfileFinding("empty rows", "rows without a token do not count", "ignored", True)
    words = f"rows without a token are counted: next to one, a response keeps {slope / alone:.4g} of its gradient"
    return ProfileFinding("empty rows", words, "counted", False)


def pooling(subject: Subject, sides: Edges) -> ProfileFinding:
    """Two tokens with d = −c and −3 c, A = 1: the quotient of their gradients is 1 for one ratio, e^{2c} for one each."""
    c = _step(sides.good_down, 0.1)
    found = subject(Batch.of([[-c, -3.0 * c]], [1.0]))
    first, second = (float(x) for x in found.weight[0])
    ratio, allowed = (first / second if second else math.nan), 1e-5 + 8.0 * found.noise + 64.0 * found.eps
    if abs(ratio - 1.0) < allowed:
        return ProfileFinding("ratio", "all tokens of a response share one importance ratio", "sequence", True)
    if abs(ratio - math.exp(2.0 * c)) < allowed:
        words = "every token has its own importance ratio, as in GRPO; the paper has one for the whole response"
        return ProfileFinding("ratio", words, "token", False)
    words = f"the gradients of two tokens with log ratios {-c:.3g} and {-3 * c:.3g} have the quotient {ratio:.6g}"
    return ProfileFinding("ratio", f"{words}; in the paper it is 1, in GRPO {math.exp(2 * c):.6g}", "other", False)


def exponent(subject: Subject, sides: Edges) -> ProfileFinding:
    """Exponent f of the loss of 4 equal tokens in 8 slots as a function of their log ratio c: the loss grows like e^{f c}."""
    c, length = min(_step(sides.good_down, 0.05), _step(sides.bad_up, 0.05)), 4
    mask = [[1] * length + [0] * length]
    found = [subject(Batch.of([[x] * 2 * length], [a], mask)) for x, a in ((c, -1.0), (-c, 1.0))]
    up, down = (abs(x.value) for x in found)
    f = (math.log(up) - math.log(down)) / (2 * c) if min(up, down) > 0 else math.nan
    allowed = 1e-6 + 16.0 * found[0].eps / c
    for expected, kind, words in POWERS:
        if abs(f - expected) < allowed * max(1.0, expected):
            return ProfileFinding("power", words, kind, kind == "mean")
    return ProfileFinding("power", f"four tokens with ratio r have the ratio r^{f:.4g}; in the paper it is r", "other", False)


POWERS = (
    (1.0, "mean", "a response's ratio is a mean over its tokens: four tokens with ratio r have ratio r"),
    (
        4.0,
        "sum",
        "a response's ratio is exp of the SUM of its log ratios: four tokens with ratio r have ratio r⁴. The paper takes "
        "the mean (the power 1/|y|), without which the ratio explodes with the length",
    ),
    (
        0.5,
        "width",
        "log ratios are divided by the padded WIDTH, not by the length: four tokens with ratio r in eight slots have ratio √r",
    ),
)
"""(exponent of four equal tokens in eight slots, kind, words)."""


def _step(edge: float | None, usual: float) -> float:
    """A log ratio inside the band: a tenth of it where the loss is clipped on that side."""
    return usual if edge is None else min(usual, edge / 10.0)


def credit(subject: Subject) -> ProfileFinding:
    """Two of three tokens with advantages 1 and −0.5, on policy; two rows, so that [N] and [N, T] cannot be mistaken."""
    rows = Batch.of([[0.0, 0.0, 0.0]] * 2, [1.0, 1.0])
    whole = subject(rows).weight[0]
    batch = replace(rows, advantage=np.array([[1.0, -0.5, 1.0], [1.0, 1.0, 1.0]]))
    try:
        found = subject(batch)
    except LossError:
        return ProfileFinding("token advantages", "accepts one advantage per response only, as in eq. 5", "refused", True)
    weight, noise = found.weight[0], 8.0 * found.noise
    shares = weight / np.where(whole == 0, np.nan, whole)
    numbers = f"advantages 1 and −0.5 give the two tokens {shares[0]:.4g} and {shares[1]:.4g}"
    if _near(float(shares[0]), 1.0, noise) and _near(float(shares[1]), -0.5, noise):
        return ProfileFinding("token advantages", f"the gradient of every token has its own advantage ({numbers})", "own", True)
    if _near(float(shares[0]), float(shares[1]), noise):
        words = (
            f"token advantages COLLAPSE: all tokens of a response get the same gradient ({numbers}; eq. 17 gives 1 and −0.5)"
        )
        return ProfileFinding("token advantages", words, "collapsed", False)
    return ProfileFinding(
        "token advantages", f"token advantages are mixed ({numbers}; eq. 17 gives 1 and −0.5)", "mixed", False
    )
