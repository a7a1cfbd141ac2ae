"""What is wrong with a KL term, by its value and gradient on one and on two responses with advantages of 0."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gspo_core.laws.causes.formulas.reductions import MEANS
from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.subject import LossError, Subject

from .nearness import SLACK

AWAY = 0.5
"""|log π − log π_ref| at which the term is measured."""


@dataclass(frozen=True)
class _Pull:
    """Value and gradient of the loss of one token with log π_ref = log π − c, relative to c = 0."""

    value: float
    slope: float


def penalty(subject: Subject, setting: Setting) -> Suspect | None:
    """What the KL term does; None if that is none of what is known here."""
    try:
        return _penalty(subject, setting)
    except LossError:
        return None


def _penalty(subject: Subject, setting: Setting) -> Suspect | None:
    frequent, rare = (_pull(subject, c) for c in (AWAY, -AWAY))
    size = max(abs(frequent.value), abs(rare.value))
    steep = max(abs(frequent.slope), abs(rare.slope))
    floor = 1e-9 + 1e3 * subject(_token(0.0)).noise
    if size <= 1e-9 and steep <= floor:
        return _unmoved(subject)
    if steep <= floor:
        return _flat(subject, size, floor)
    if frequent.value < 0 and rare.value < 0:
        words = "the KL term is subtracted from the loss: it pushes the policy away from the reference"
        return Suspect(words, "add the KL term to the loss")
    if frequent.slope < 0 < rare.slope:
        words = "the gradient of the KL term has the wrong sign: it pushes the policy away from the reference"
        return Suspect(words, "let the gradient flow through log π alone, not through the reference")
    return _old_policy(subject) or _exchanged(frequent, rare) or _weights(subject, setting) or _padding(subject)


def _flat(subject: Subject, size: float, floor: float) -> Suspect:
    """A KL term that has a value and no gradient that the reference changes."""
    if abs(_pull(subject, 0.1 * AWAY).slope) > floor:
        words = f"the KL term is capped, and has no gradient beyond: with |log π − log π_ref| = {AWAY:g} it adds {size:.6g}"
        return Suspect(words, "leave the KL term as it is, or cap the log ratio far outside")
    if abs(float(subject(_token(0.0)).weight[0, 0])) > floor:
        words = "the KL term is log π − log π_ref (k1), whose gradient is the same wherever the reference is"
        return Suspect(words, "use k3, π_ref/π − log(π_ref/π) − 1, or the square of the log ratio")
    words = "the KL term is detached: it is in the value, and has no gradient"
    return Suspect(words, "let the gradient flow through log π")


def _token(c: float, stale: float = 0.0, advantage: float = 0.0) -> Batch:
    """One token with log π_ref = log π − c and log π_old = log π − stale."""
    batch = Batch.of([[0.0]], [advantage], base=-2.0)
    return replace(batch, ref_logp=batch.logp - c, old_logp=batch.logp - stale)


def _pull(subject: Subject, c: float, **options: float) -> _Pull:
    found, still = (subject(_token(x, **options)) for x in (c, 0.0))
    return _Pull(found.value - still.value, float(found.weight[0, 0] - still.weight[0, 0]))


def _unmoved(subject: Subject) -> Suspect:
    """With A = 0 the reference changes nothing."""
    if abs(subject(_token(0.0, AWAY)).value - subject(_token(0.0)).value) > 1e-9:
        return Suspect(
            "the KL term is measured against the old policy, not against the reference", "use the reference's log-probs"
        )
    if abs(_pull(subject, AWAY, advantage=1.0).value) > 1e-9:
        return Suspect(
            "the KL term is multiplied by the advantage: it is 0 where A = 0", "add the KL term outside of the advantage"
        )
    return Suspect("the reference is ignored: there is no KL term", "add the KL term, or leave out ref_logp")


def _old_policy(subject: Subject) -> Suspect | None:
    """A KL term that another old policy changes."""
    plain, moved = (_pull(subject, AWAY, stale=stale).value for stale in (0.0, 0.1))
    if abs(moved - plain) <= SLACK * abs(plain):
        return None
    if abs(moved / plain - np.exp(0.1)) <= 1e-4:
        words = "the KL term is multiplied by the importance ratio π/π_old"
        return Suspect(words, "add the KL term to the loss without a ratio")
    return Suspect("the KL term depends on the old policy", "use log π and log π_ref alone")


def _exchanged(frequent: _Pull, rare: _Pull) -> Suspect | None:
    if abs(rare.slope) >= abs(frequent.slope) * (1 - SLACK):
        return None
    words = "policy and reference are exchanged in the KL term: it pulls down frequent tokens harder than it pulls up rare ones"
    return Suspect(words, "k3 is exp(x) − x − 1 with x = log π_ref − log π")


ROWS = np.array([[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]) > 0
"""Responses of one token and three, an empty row, and a slot of padding."""


def _weights(subject: Subject, setting: Setting) -> Suspect | None:
    """The KL term as another mean than the policy loss."""
    alone = _pull(subject, AWAY).value
    batch = Batch.of([[0.0] * 4] * 3, [0.0] * 3, ROWS.astype(int).tolist(), base=-2.0)

    def value(row: int | None) -> float:
        return subject(replace(batch, ref_logp=batch.logp - AWAY * (np.arange(3) == row)[:, None] * ROWS)).value

    shares = [(value(row) - value(None)) / alone for row in (0, 1)]
    lengths = ROWS.sum(axis=1).astype(float)
    own = lengths / lengths.sum() if Claim.TOKEN_MEAN in setting.claims else np.full(3, 0.5)
    if np.allclose(shares, own[:2], rtol=1e-5):
        return None
    for sentence, fix, weights in MEANS:
        if np.allclose(shares, weights(lengths, 2, *ROWS.shape)[:2], rtol=1e-5):
            return Suspect(f"in the KL term, {sentence}", fix)
    words = f"in the KL term, responses of 1 and 3 tokens have the weights {shares[0]:.4g} and {shares[1]:.4g}"
    return Suspect(words, f"weigh them as the policy loss does, {own[0]:.4g} and {own[1]:.4g}")


def _padding(subject: Subject) -> Suspect | None:
    batch = Batch.of([[0.0, 0.0]], [0.0], [[1, 0]], base=-2.0)
    quiet, loud = (subject(replace(batch, ref_logp=batch.logp - np.array([[AWAY, x]]))).value for x in (0.0, 7.0))
    if abs(quiet - loud) <= SLACK * (1.0 + abs(quiet)):
        return None
    return Suspect("padding of the reference's log-probs enters the KL term", "mask the KL term before the sum")
