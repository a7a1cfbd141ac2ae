"""The paper: value and gradient as its formulas say, in scalar loops and by hand (theory A)."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.compare import same_value, same_weight
from gspo_core.laws.kit.law import Law, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import any_batches, batches
from gspo_core.laws.kit.subject import Subject

LOG2 = math.log(2.0)
# (token log ratios, advantages, mask, value, weight), computed by hand for any band that is not wider than e:
# ratios ½ with A > 0 and 2 with A < 0 are on the sides that no clip reaches.
HAND = [
    # one response of two tokens with ratio ½, one of one token with ratio 2: −½ · ½ + ½ · 2
    ([[-LOG2, -LOG2], [LOG2, 0.0]], [1.0, -1.0], [[1, 1], [1, 0]], 0.75, [[-0.125, -0.125], [1.0, 0.0]]),
    # one response of one token, A = 3, on policy
    ([[0.0]], [3.0], [[1]], -3.0, [[-3.0]]),
    # a centred group on policy: no loss, and a gradient
    ([[0.0, 0.0], [0.0, 0.0]], [1.0, -1.0], [[1, 1], [1, 1]], 0.0, [[-0.25, -0.25], [0.25, 0.25]]),
]


@law(
    "the numbers computed by hand come out",
    source="GSPO eq. 5 and 10; GRPO eq. 3",
    otherwise="the loss is another one, up to its scale",
    needs={Claim.UNBOUNDED, Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.sampled_from(HAND),
    anchors=lambda setting: list(HAND),
    effort=0.05,
)
def hand(
    subject: Subject, setting: Setting, case: tuple[list[list[float]], list[float], list[list[int]], float, list[list[float]]]
) -> bool:
    """Ratios ½, 1 and 2, lengths 1 and 2: an absolute anchor, in which nothing is computed that could be wrong twice."""
    d, advantage, mask, value, weight = case
    batch = Batch.of(d, advantage, mask)
    if not setting.is_clear(batch, subject.kink):
        return False
    found = subject(batch)
    same_value(found, value, setting, batch, "the loss")
    same_weight(found, weight, setting, batch, "the gradient")
    return True


@law(
    "a response with ratio 4 has the geometric mean of 2 and 8",
    source="GSPO eq. 7, by hand",
    otherwise="the ratio is another mean, or none",
    needs={Claim.UNBOUNDED, Claim.MEAN_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.just(Batch.of([[LOG2, 3 * LOG2]], [-1.0])),
    anchors=lambda setting: [Batch.of([[LOG2, 3 * LOG2]], [-1.0])],
    effort=0.05,
)
def geometric(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """d = (log 2, log 8), A = −1: loss 4, gradient 2 on each token."""
    found = subject(batch)
    same_value(found, 4.0, setting, batch, "the loss")
    same_weight(found, [[2.0, 2.0]], setting, batch, "the gradient")
    return True


@law(
    "the value is the paper's",
    source="theory A, E1; for GSPO eq. 5, otherwise the row of docs/family.md",
    otherwise="the loss is another one",
    needs={Claim.JUDGED},
    cases=any_batches,
    anchors=lambda setting: [Batch.of([[0.0]], [1.0])],
)
def value(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Against scalar loops that share no code with anything."""
    if batch.largest > 49.0 or not setting.is_clear(batch, 1e-9):
        return False
    same_value(subject(batch.poisoned(0.0)), setting.verdict(batch).value, setting, batch, "the loss")
    return bool(batch.token_advantage.any())


@law(
    "the gradient is the paper's",
    source="theory A; for GSPO eq. 10 with the gate: −A_i s_i u_i/(N |y_i|)",
    otherwise="the gradient is another one",
    needs={Claim.JUDGED},
    cases=batches,
    anchors=lambda setting: [Batch.of([[0.0]], [1.0])],
)
def gradient(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """Token by token, against scalar loops."""
    if batch.largest > 49.0 or not setting.is_clear(batch, subject.kink):
        return False
    if not subject.own_gradient and Claim.DERIVATIVE not in setting.claims:
        return False  # differences find the derivative, and the paper's weight is none
    expected = np.array(setting.verdict(batch).weight)
    same_weight(subject(batch.poisoned(0.0)), expected, setting, batch, "the gradient")
    return bool(expected.any())


PAPER: list[Law] = [hand, geometric, value, gradient]
