"""Comparing losses and gradients: error budgets counted in units of rounding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .batch import Batch
from .claim import Claim
from .law import demand
from .setting import Setting
from .subject import LossResult

ROUNDINGS = 64.0
"""Units of rounding allowed per term: for an exp, a few products, and the error of the exponent times its size."""


def scale_of(setting: Setting, batch: Batch) -> float:
    """Σ |terms| of the loss. The rounding error of the value is proportional to it.

    A KL term counts as 1 per token: it is 0 at the reference, and the finite differences beside it are not.
    """
    other = float(batch.mask.sum()) if Claim.KL in setting.claims else 0.0
    if Claim.KNOWN_FORMULA in setting.claims and batch.largest < 700:
        return other + setting.expected(batch).scale
    return other + float(np.abs(batch.token_advantage).sum() * math.exp(min(batch.largest, 50.0)))


def tiny(outcome: LossResult) -> float:
    """Smallest number that is still resolved in the precision of the result (below it, numbers become denormal)."""
    return 1e-290 if outcome.eps < 1e-10 else 1e-35


def rounding(outcome: LossResult, batch: Batch) -> float:
    """Relative error of a sum of the batch's terms, each exp(log ratio) · A."""
    return ROUNDINGS * outcome.eps * (batch.mask.size + 4) * (1.0 + batch.largest)


def same_value(outcome: LossResult, expected: float, setting: Setting, batch: Batch, what: str, note: str = "") -> None:
    """Requires the value, within rounding; of a loss whose value is a convention nothing is required."""
    if Claim.PRINTED in setting.claims:
        return
    allowed = rounding(outcome, batch) * (scale_of(setting, batch) + abs(expected))
    demand(outcome.value, expected, allowed + tiny(outcome), what, batch, note)


def same_weight(outcome: LossResult, expected: Any, setting: Setting, batch: Batch, what: str, note: str = "") -> None:
    """Requires the gradient in every slot, within rounding and the noise of finite differences."""
    size = float(np.max(np.abs(expected), initial=0.0))
    allowed = rounding(outcome, batch) * size + outcome.noise * (1.0 + batch.largest) * scale_of(setting, batch)
    demand(outcome.weight, expected, allowed + tiny(outcome), what, batch, note)


def zero(outcome: LossResult, where: Any, setting: Setting, batch: Batch, what: str, note: str = "") -> None:
    """Requires a zero gradient in the chosen slots: exactly zero, unless it was computed by finite differences."""
    allowed = outcome.noise * (1.0 + batch.largest) * scale_of(setting, batch)
    chosen = np.where(where, outcome.weight, 0.0)
    demand(chosen, np.zeros(chosen.shape), allowed, what, batch, note)
