"""When two numbers of a loss are the same: error budgets in units of rounding, no folklore."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .batch import Batch
from .claim import Claim
from .law import demand
from .setting import Setting
from .subject import Outcome

ROUNDINGS = 64.0
"""Units of rounding that a term may cost: an exp, a few products, and the argument's own error times its size."""


def scale_of(setting: Setting, batch: Batch) -> float:
    """Σ |terms| of the loss: what rounding of the value is in proportion to."""
    if Claim.JUDGED in setting.claims and batch.largest < 700:
        return setting.verdict(batch).scale
    return float(np.abs(batch.token_advantage).sum() * math.exp(min(batch.largest, 50.0)))


def tiny(outcome: Outcome) -> float:
    """Below this, numbers of the outcome's precision lose their digits on the way to 0."""
    return 1e-290 if outcome.eps < 1e-10 else 1e-35


def rounding(outcome: Outcome, batch: Batch) -> float:
    """Relative error of a sum of the batch's terms, each exp(log ratio) · A."""
    return ROUNDINGS * outcome.eps * (batch.mask.size + 4) * (1.0 + batch.largest)


def same_value(outcome: Outcome, expected: float, setting: Setting, batch: Batch, what: str, note: str = "") -> None:
    """The value, within rounding."""
    allowed = rounding(outcome, batch) * (scale_of(setting, batch) + abs(expected))
    demand(outcome.value, expected, allowed + tiny(outcome), what, batch, note)


def same_weight(outcome: Outcome, expected: Any, setting: Setting, batch: Batch, what: str, note: str = "") -> None:
    """The gradient in every slot, within rounding and the noise of differences."""
    size = float(np.max(np.abs(expected), initial=0.0))
    allowed = rounding(outcome, batch) * size + outcome.noise * (1.0 + batch.largest) * scale_of(setting, batch)
    demand(outcome.weight, expected, allowed + tiny(outcome), what, batch, note)


def zero(outcome: Outcome, where: Any, setting: Setting, batch: Batch, what: str, note: str = "") -> None:
    """No gradient in the chosen slots: exactly, unless it was found by differences."""
    allowed = outcome.noise * (1.0 + batch.largest) * scale_of(setting, batch)
    chosen = np.where(where, outcome.weight, 0.0)
    demand(chosen, np.zeros(chosen.shape), allowed, what, batch, note)
