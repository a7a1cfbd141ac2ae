"""Inputs besides logp: constants without a gradient, that a loss leaves as they are."""

from __future__ import annotations

import numpy as np

from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.claim import Claim
from gspo_core.laws.kit.law import Law, Severity, Violation, demand, law
from gspo_core.laws.kit.setting import Setting
from gspo_core.laws.kit.strategies import batches
from gspo_core.laws.kit.subject import Subject


@law(
    "no gradient reaches old log-probs or advantages",
    source="GSPO eq. 8 to 10 differentiate log π_θ alone: old policy and advantages are data",
    otherwise="old log-probs or advantages that are still in the graph would be trained, too",
    needs={Claim.DETACHED},
    cases=lambda setting: batches(setting, rows=(1, 2), width=(1, 3)),
    anchors=lambda setting: [Batch.of([[0.0]], [1.0])],
    effort=0.05,
    severity=Severity.FRAGILE,
)
def detached(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """∂loss/∂old_logp = 0 and ∂loss/∂advantage = 0 by the framework's autodiff."""
    leaks = subject.leaks(batch.with_padding(0.0))
    for name, gradient in leaks.items():
        demand(gradient, np.zeros(np.shape(gradient)), 0.0, f"the gradient that reaches {name}", batch)
    return bool(leaks)


@law(
    "the loss leaves its inputs as they are",
    source="a loss is called again with the same old log-probs in every epoch of a rollout",
    otherwise="an input is overwritten, so that the next call, or the caller's next line, sees other numbers",
    cases=lambda setting: batches(setting, rows=(1, 2), width=(1, 3)),
    anchors=lambda setting: [Batch.of([[0.1, -0.2]], [1.0])],
    effort=0.1,
)
def untouched(subject: Subject, setting: Setting, batch: Batch) -> bool:
    """After a call every array holds the numbers that it held before, padding included."""
    changed = subject.changed(batch.with_padding(7.0))
    if changed:
        raise Violation(f"the argument {changed[0]} after the call", batch, "other numbers", "the numbers from before")
    return True


OTHER_INPUTS: list[Law] = [untouched, detached]
