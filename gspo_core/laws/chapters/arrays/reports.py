"""Fields that a loss reports besides value and gradient: the log ratio of each unit, and which units are clipped."""

from __future__ import annotations

import numpy as np

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.law import Law, demand, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import any_batches
from gspo_core.laws.kit.subject import Subject

TWO = Batch.of([[0.5, -0.25], [0.125, 0.0]], [1.0, -1.0], [[1, 1], [1, 0]])


@law(
    "the reported log ratio is the one in the loss",
    source="GSPO eq. 7; with a gate, the log ratio after the gate",
    otherwise="the loss logs another ratio than the one it trains with",
    needs={Claim.REPORTS, Claim.KNOWN_FORMULA},
    cases=any_batches,
    anchors=lambda setting: [TWO],
)
def log_ratio(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """log r of every unit equals that of the scalar oracle; 0 for empty responses and in masked slots."""
    found, expected = subject(batch.with_padding(np.nan)), setting.expected(batch.with_padding(0.0))
    allowed = 4.0 * found.eps * (batch.mask.shape[1] + 1) * batch.largest
    demand(found.log_ratio, expected.log_ratio, allowed, "the reported log ratios", batch)
    return bool(np.any(expected.log_ratio))


@law(
    "exactly the units with an advantage and no gradient are reported as clipped",
    source="docs/theory.md, E3; counting both sides for either sign of A: Fast-LLM, torchrl",
    otherwise="units with a gradient are reported as clipped, or units without one are not",
    needs={Claim.REPORTS},
    cases=lambda setting: any_batches(setting, kinds=["level", "spread", "beyond", "equal", "on policy"]),
    anchors=lambda setting: [
        Batch.of([[2 * bound]], [sign]) for bound in (*setting.log_bounds, 1.0, -1.0) if bound for sign in (1.0, -1.0)
    ],
)
def clipped(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """clipped = (A ≠ 0) ∧ (gradient exactly 0), by the gradient of the loss itself; never in padding."""
    found = subject(batch.with_padding(np.nan))
    if batch.largest > 49.0:
        return False  # soft weights underflow there
    no_gradient = (found.weight == 0) & (batch.token_advantage != 0) & batch.mask
    if np.ndim(found.clipped) == 1:
        wanted = ((found.weight == 0) | ~batch.mask).all(axis=1) & (batch.token_advantage != 0).any(axis=1)
    else:
        wanted = no_gradient
    demand(np.asarray(found.clipped, dtype=float), wanted.astype(float), 0.0, "the units reported as clipped", batch)
    return bool(batch.token_advantage.any())


REPORTS: list[Law] = [log_ratio, clipped]
