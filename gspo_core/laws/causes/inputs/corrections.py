"""What is wrong with a sampler correction, by its weight on one response and on two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import LossError, Subject

from .nearness import SLACK, near

GAP = 0.1
"""log π_old − log π_sampler at which the weight is measured: inside all usual caps."""
TURNED = "the correction is turned over: π_sampler/π_old in place of π_old/π_sampler"
FIX = "multiply by π_old/π_sampler, held constant: exp(old_logp − sampler_logp), detached"


def correction(subject: Subject, setting: Setting) -> Suspect | None:
    """What the sampler correction does; None if that is none of what is known here."""
    try:
        return (
            _normalised(subject)
            or _signs(subject)
            or _one_token(subject)
            or _current(subject)
            or _clipped(subject, setting)
            or _tokens(subject)
            or _padding(subject)
        )
    except LossError:
        return None


def _weight(subject: Subject, gaps: Sequence[float], d: float = 0.0) -> float:
    """The weight of one good response whose tokens have these log π_old − log π_sampler."""
    batch = Batch.of([[d] * len(gaps)], [1.0 if d <= 0 else -1.0], base=-3.0)
    asked = replace(batch, sampler_logp=batch.old_logp - np.array([gaps]))
    return abs(subject.value(asked).value) / math.exp(d)


def _one_token(subject: Subject) -> Suspect | None:
    """The weight as a function of the gap of a single token."""
    still = _weight(subject, [0.0])
    weights = {g: _weight(subject, [g]) for g in (GAP, -GAP, 80 * GAP, -80 * GAP)}
    up, down = weights[GAP], weights[-GAP]
    known = {
        "the sampler's log-probs are ignored: there is no correction": all(near(w, still) for w in weights.values()),
        f"the weight is {still:.6g}, not 1, where the sampler is the old policy": not near(still, 1.0),
        "the weight grows with the distance of the sampler, in either direction": near(up, down) and up > 1 + SLACK,
        TURNED: near(up, math.exp(-GAP)) or near(down, math.exp(GAP)),
        "the correction is applied twice: the weight is the square of π_old/π_sampler": (
            near(up, math.exp(2 * GAP)) or near(down, math.exp(-2 * GAP))
        ),
        "the weight falls where the old policy exceeds the sampler": 0 != up < 1 - SLACK,
        "the weight grows where the sampler exceeds the old policy": down > 1 + SLACK,
    }
    return next((Suspect(words, FIX) for words, holds in known.items() if holds), None)


def _current(subject: Subject) -> Suspect | None:
    """A weight that depends on the current policy, or lets a gradient through."""
    moved, still = _weight(subject, [0.0], 0.25), _weight(subject, [0.0])
    if near(moved, still * math.exp(0.25)):
        words = "the weight is π/π_sampler, of the current policy, in place of π_old/π_sampler"
        return Suspect(words, FIX)
    batch = Batch.of([[0.25]], [-1.0], base=-3.0)
    found = subject(replace(batch, sampler_logp=batch.old_logp - GAP))
    if abs(found.weight[0, 0] - found.value) > 1e-5 * abs(found.value) + 1e3 * found.noise:
        return Suspect("a gradient flows through the correction: its weight is not held constant", FIX)
    return None


def _tokens(subject: Subject) -> Suspect | None:
    """The weight of a response of two tokens whose gaps cancel."""
    mixed, words = _weight(subject, [GAP, -GAP]), "a response's correction is"
    if near(mixed, math.cosh(GAP)):
        # A mean over the tokens of a loss with a weight each gives the same number, with unequal gradients.
        batch = Batch.of([[0.0, 0.0]], [1.0], base=-3.0)
        weight = subject(replace(batch, sampler_logp=batch.old_logp - np.array([[GAP, -GAP]]))).weight[0]
        if abs(weight[0] - weight[1]) > 1e-3 * abs(weight[0]):
            return None
        return _mean_of_weights(subject)
    for word, log_weight in (("largest", GAP), ("smallest", -GAP)):
        if near(mixed, math.exp(log_weight)):
            return Suspect(f"{words} the {word} of its token ratios, not their product", FIX)
    return None


def _mean_of_weights(subject: Subject) -> Suspect:
    """The arithmetic mean of the token ratios, with the cap that each of them has."""
    far, farther = (_weight(subject, [80 * GAP, 80 * GAP * by]) for by in (1.0, 1.5))
    cap = f", each held at {far:.6g} at most" if near(far, farther) else ""
    words = f"a response's correction is the arithmetic mean of its token ratios{cap}, not their product"
    means = "a weight per token, on one ratio per response, multiplies the response's advantage by that mean"
    fix = "weigh the whole response, in TRL by sequence_truncate; or, if the mean is meant, pass without={Claim.WHOLE_WEIGHT}"
    return Suspect(f"{words}: {means}", fix)


def _signs(subject: Subject) -> Suspect | None:
    """A correction of one sign of A only."""
    acts = {sign: not near(_value(subject, 0.0, sign, GAP), _value(subject, 0.0, sign, 0.0)) for sign in (1.0, -1.0)}
    if acts[1.0] == acts[-1.0]:
        return None
    only, plain = ("good", "bad") if acts[1.0] else ("bad", "good")
    return Suspect(f"the correction acts on {only} responses only: {plain} ones keep the weight 1", FIX)


def _clipped(subject: Subject, setting: Setting) -> Suspect | None:
    """A correction that moves the clip: the loss of a clipped response does not depend on it, or not as on policy."""
    beyond = 2.0 * setting.log_bounds[1]
    if Claim.CLIP not in setting.claims or near(_value(subject, 0.0, 1.0, GAP), _value(subject, 0.0, 1.0, 0.0)):
        return None
    if not near(_value(subject, beyond, 1.0, GAP), _value(subject, beyond, 1.0, 0.0)):
        return None
    words = "the correction is inside the clip: the ratio that is clipped is π/π_sampler, not π/π_old"
    return Suspect(words, "clip π/π_old, and multiply the result by π_old/π_sampler, held constant")


def _value(subject: Subject, d: float, sign: float, gap: float) -> float:
    """The loss of one token."""
    batch = Batch.of([[d]], [sign], base=-3.0)
    return subject.value(replace(batch, sampler_logp=batch.old_logp - gap)).value


def _padding(subject: Subject) -> Suspect | None:
    batch = Batch.of([[0.0, 0.0]], [1.0], [[1, 0]], base=-3.0)
    quiet, loud = (subject.value(replace(batch, sampler_logp=batch.old_logp - np.array([[GAP, x]]))).value for x in (0.0, 0.2))
    if near(quiet, loud):
        return None
    return Suspect("padding of the sampler's log-probs enters the correction", "mask the log ratios before the sum")


def _normalised(subject: Subject) -> Suspect | None:
    """Responses that change each other's weights."""
    two = Batch.of([[0.0], [0.0]], [1.0, 0.0], base=-3.0)
    alone, beside = (
        subject.value(replace(two, sampler_logp=two.old_logp - np.array([[GAP], [x]]))).value for x in (0.0, 3 * GAP)
    )
    if near(alone, beside):
        return None
    return Suspect("a response's weight depends on the other responses: weights are normalised over the batch", FIX)
