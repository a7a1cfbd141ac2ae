"""What a loss does where a mean is over nothing: beside a row without a token, and on a batch without one."""

from __future__ import annotations

import numpy as np

from gspo_core.laws.causes.mends import guarded, without_empty_rows
from gspo_core.laws.causes.suspect import Suspect
from gspo_core.laws.kit.batch import Batch
from gspo_core.laws.kit.law import Severity
from gspo_core.laws.kit.subject import LossError, Subject


def on_nothing(subject: Subject) -> tuple[Suspect, Subject] | None:
    """What a loss does where a mean is over nothing, if that is an error, NaN or infinity, and the loss without it.

    A batch without a token is no other loss, as no formula says what it is; a row without one spoils the other rows.
    """
    words = _failure(subject, Batch.of([[0.0], [0.0]], [1.0, 1.0], [[1], [0]]))
    if words:
        fix = "divide by max(length, 1), and leave rows without a token out of the mean"
        return Suspect(f"beside a row without a token {words}", fix), without_empty_rows(subject)
    words = _failure(subject, Batch.of([[0.0]], [1.0], [[0]]))
    if words:
        fix = "divide by max(count, 1), or leave such batches out"
        return Suspect(f"on a batch without a token {words}", fix, severity=Severity.FRAGILE), guarded(subject)
    return None


def _failure(subject: Subject, batch: Batch) -> str:
    """In words; empty if the batch has a finite loss and gradient."""
    try:
        found = subject(batch)
    except LossError as error:
        return f"the loss raises {' '.join(str(error).split())}"
    finite = np.isfinite(found.value) and np.isfinite(found.weight).all()
    return "" if finite else "the loss or its gradient is not finite, as 0/0 is"
