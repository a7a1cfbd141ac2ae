"""The meaning of a run's metrics, in sentences: why a loss is 0, whether the clip range fits, what the sampler does."""

from __future__ import annotations

from gspo_core.metrics.ledger import Metrics
from gspo_core.metrics.readings import summary
from gspo_core.objectives.loss import Objective

from .findings import Finding, Numbers
from .no_gradient import no_gradient
from .numbers_at_fault import impossible, not_finite
from .ratios import clip_range, length_weighted, too_few, unmoved
from .sampler import sampler
from .size import dominant, far_apart
from .thresholds import Thresholds

_DEFAULT = Thresholds()


def diagnose(metrics: Metrics, objective: Objective | None = None, *, thresholds: Thresholds = _DEFAULT) -> tuple[Finding, ...]:
    """Findings about a run, most severe first; none if all is well. It reads the numbers, and so waits for the device.

    Of the reasons for a loss of 0 at most one is given, and where these metrics cannot tell it, that is said. They should cover
    at least one rollout with all of its updates: in the first update every ratio is 1, as it should be.

    Args:
        metrics: of `batch_metrics`, and of `group_metrics` and `sampler_metrics` where there are any, merged.
        objective: what was trained with; None leaves out what depends on its clip range or reduction.
        thresholds: the limits beyond which something is reported.

    Returns: `Finding`s.

    Raises: TypeError for a wrong kind.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded, batch_metrics, policy_loss
    >>> logp, layout = np.full((2, 3), -1.0), Padded(np.full((2, 3), True))
    >>> batch = (logp, logp, np.array([1.0, -1.0]), layout)
    >>> for finding in diagnose(batch_metrics(GSPO, policy_loss(GSPO, *batch), *batch), GSPO):
    ...     print(finding.kind.name, finding.gradient_is_zero)
    ON_POLICY_CENTRED False
    """
    if objective is not None and not isinstance(objective, Objective):
        raise TypeError(f"objective: expected an Objective such as GSPO, got {type(objective).__name__}")
    if not isinstance(thresholds, Thresholds):
        raise TypeError(f"thresholds: expected Thresholds, got {type(thresholds).__name__}")
    numbers = summary(metrics)
    wrong, wrong_sampler = (impossible(numbers, thresholds, prefix) for prefix in ("", "sampler_"))
    of_batch = no_gradient(numbers, thresholds)
    if not of_batch:
        of_batch = _moving(numbers, objective, thresholds) if not wrong else dominant(numbers, thresholds)
    if wrong_sampler and wrong and wrong[0].kind == wrong_sampler[0].kind:
        wrong_sampler, of_sampler = [], []  # both pairs share old_logp
    else:
        of_sampler = wrong_sampler or sampler(numbers, objective, thresholds)
    found = (*not_finite(numbers), *wrong, *of_batch, *length_weighted(numbers, objective, thresholds), *of_sampler)
    return found or tuple(too_few(numbers, objective, thresholds))


def _moving(numbers: Numbers, objective: Objective | None, limits: Thresholds) -> list[Finding]:
    """A batch with a gradient. What is said about the clip range would be wrong where the ratios are."""
    outsized = dominant(numbers, limits) or far_apart(numbers, limits)
    return outsized or [*unmoved(numbers, limits), *clip_range(numbers, objective, limits)]
