"""What a loss says of itself besides value and gradient: its units' log ratios, and which of them are clipped (theory E3)."""

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
    "the reported log ratio is the one that the loss is made of",
    source="GSPO eq. 7; after a gate, what the gate leaves",
    otherwise="logs another ratio than the one it trains with",
    needs={Claim.REPORTS, Claim.JUDGED},
    cases=any_batches,
    anchors=lambda setting: [TWO],
)
def log_ratio(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """log r of every unit, against the scalar loops; 0 for empty responses and in masked slots."""
    found, verdict = subject(batch.poisoned(np.nan)), setting.verdict(batch.poisoned(0.0))
    allowed = 4.0 * found.eps * (batch.mask.shape[1] + 1) * batch.largest
    demand(found.log_ratio, verdict.log_ratio, allowed, "the reported log ratios", batch)
    return bool(np.any(verdict.log_ratio))


@law(
    "clipped are the units with an advantage and no gradient, and no others",
    source="theory E3; design: `clipped` is exactly that. Counting both sides for either sign is common",
    otherwise="counts units as clipped that have a gradient, or does not count some that have none",
    needs={Claim.REPORTS},
    cases=lambda setting: any_batches(setting, kinds=["level", "spread", "beyond", "equal", "on policy"]),
    anchors=lambda setting: [
        Batch.of([[2 * bound]], [sign]) for bound in (*setting.log_bounds, 1.0, -1.0) if bound for sign in (1.0, -1.0)
    ],
)
def clipped(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """clipped = (A ≠ 0) ∧ (gradient exactly 0), by the loss's own gradient; never in padding."""
    found = subject(batch.poisoned(np.nan))
    if batch.largest > 49.0:
        return False  # soft weights underflow there
    shut = (found.weight == 0) & (batch.token_advantage != 0) & batch.mask
    if np.ndim(found.clipped) == 1:
        wanted = ((found.weight == 0) | ~batch.mask).all(axis=1) & (batch.token_advantage != 0).any(axis=1)
    else:
        wanted = shut
    demand(np.asarray(found.clipped, dtype=float), wanted.astype(float), 0.0, "what is reported as clipped", batch)
    return bool(batch.token_advantage.any())


REPORTS: list[Law] = [log_ratio, clipped]
