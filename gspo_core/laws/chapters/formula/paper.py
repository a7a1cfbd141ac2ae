"""The paper: value and gradient by its formulas, in scalar loops and computed by hand."""

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
# (token log ratios, advantages, mask, value, weight), computed by hand for any clip range that is not wider than e:
# ratios ½ with A > 0 and 2 with A < 0 are on the sides that are never clipped.
HAND = [
    # one response of two tokens with ratio ½, one of one token with ratio 2: −½ · ½ + ½ · 2
    ([[-LOG2, -LOG2], [LOG2, 0.0]], [1.0, -1.0], [[1, 1], [1, 0]], 0.75, [[-0.125, -0.125], [1.0, 0.0]]),
    # one response of one token, A = 3, on policy
    ([[0.0]], [3.0], [[1]], -3.0, [[-3.0]]),
    # a centred group on policy: no loss, and a gradient
    ([[0.0, 0.0], [0.0, 0.0]], [1.0, -1.0], [[1, 1], [1, 1]], 0.0, [[-0.25, -0.25], [0.25, 0.25]]),
]


@law(
    "the loss equals numbers computed by hand",
    source="GSPO eq. 5 and 10; GRPO eq. 3",
    otherwise="value or gradient differ from the formula, perhaps by a factor",
    needs={Claim.UNBOUNDED, Claim.LEVEL_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.sampled_from(HAND),
    anchors=lambda setting: list(HAND),
    effort=0.05,
)
def hand(
    subject: Subject, setting: Setting, case: tuple[list[list[float]], list[float], list[list[int]], float, list[list[float]]]
) -> bool:
    """Three batches with ratios ½, 1 and 2 and lengths 1 and 2, whose value and gradient are written as numbers."""
    d, advantage, mask, value, weight = case
    batch = Batch.of(d, advantage, mask)
    if not setting.is_clear(batch, subject.kink):
        return False
    found = subject(batch)
    same_value(found, value, setting, batch, "the loss")
    same_weight(found, weight, setting, batch, "the gradient")
    return True


@law(
    "token ratios 2 and 8 give a response the ratio 4, their geometric mean",
    source="GSPO eq. 7, computed by hand",
    otherwise="the ratio is not the geometric mean of the token ratios",
    needs={Claim.UNBOUNDED, Claim.MEAN_RATIO, Claim.SEQUENCE_MEAN},
    cases=lambda setting: st.just(Batch.of([[LOG2, 3 * LOG2]], [-1.0])),
    anchors=lambda setting: [Batch.of([[LOG2, 3 * LOG2]], [-1.0])],
    effort=0.05,
)
def geometric(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """d = (log 2, log 8) and A = −1: the loss is 4, the gradient 2 on each token."""
    found = subject(batch)
    same_value(found, 4.0, setting, batch, "the loss")
    same_weight(found, [[2.0, 2.0]], setting, batch, "the gradient")
    return True


PATTERNS = [[0.98], [1.02], [0.9, 0.9], [1.2, 0.9], [1.2, 0.2], [2.4, -0.2]]
"""Log ratios of tokens, in units of a bound: each of them, their mean or their sum is beyond it, and the others are not."""


def edges(setting: Setting) -> list[Batch]:
    """On policy, and responses of one and two tokens beside every bound of the objective, for both signs of A."""
    sides = [(side * edge, sign) for edge in setting.edges for side in (1.0, -1.0) for sign in (1.0, -1.0)]
    beside = [Batch.of([[size * x for x in pattern]], [sign]) for size, sign in sides for pattern in PATTERNS]
    return [Batch.of([[0.0]], [1.0]), *beside]


@law(
    "the value is the paper's",
    source="docs/theory.md, E1; GSPO eq. 5, for other presets the formula in docs/family.md",
    otherwise="the value differs from the formula",
    needs={Claim.KNOWN_FORMULA},
    cases=any_batches,
    anchors=edges,
)
def value(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """The value equals that of the scalar oracle, which shares no code with the losses."""
    if batch.largest > 49.0 or not setting.is_clear(batch, 1e-9) or Claim.PRINTED in setting.claims:
        return False
    same_value(subject(batch.with_padding(0.0)), setting.expected(batch).value, setting, batch, "the loss")
    return bool(batch.token_advantage.any())


@law(
    "the gradient is the paper's",
    source="docs/theory.md, A1 to A8; for GSPO eq. 10 with the clip: −A_i s_i u_i/(N |y_i|), u_i = 0 where clipped, else 1",
    otherwise="the gradient differs from the formula",
    needs={Claim.KNOWN_FORMULA},
    cases=batches,
    anchors=edges,
)
def gradient(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """The gradient equals that of the scalar oracle, token by token."""
    if batch.largest > 49.0 or not setting.is_clear(batch, subject.kink):
        return False
    if not subject.own_gradient and Claim.DERIVATIVE not in setting.claims:
        return False  # differences give the derivative of the value, which the paper's weight is not
    expected = np.array(setting.expected(batch).weight)
    same_weight(subject(batch.with_padding(0.0)), expected, setting, batch, "the gradient")
    return bool(expected.any())


PAPER: list[Law] = [hand, geometric, value, gradient]
