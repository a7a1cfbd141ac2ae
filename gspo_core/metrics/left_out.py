"""Mergeable statistics of the responses that were never run, since they have no advantage."""

from __future__ import annotations

from gspo_core._lib.array import count_true, detached, is_real, namespace, shape_of
from gspo_core._lib.units import own_count
from gspo_core._lib.validation import check_layout
from gspo_core.layouts.prepared import prepared
from gspo_core.layouts.restricted import Restricted
from gspo_core.objectives.loss import Objective
from gspo_core.types import Array, Layout

from .batch import length_table, unit_entries
from .ledger import Entries, Metrics, ledger
from .log_ratios import highest, lowest


def left_out_metrics(objective: Objective, advantage: Array, layout: Layout) -> Metrics:
    """Metrics of the responses whose advantage is exactly zero, which `Plan.step` leaves out: their number and lengths.

    Merge them with the `batch_metrics` of the responses that were run, once per optimizer step: the shares in `summary` are
    then shares of all responses, and the loss is divided by the count of all. The log s of these responses was never
    computed; the numbers of log s stay those of the responses that were run. If `batch_metrics` has seen all responses,
    do not merge this: those without an advantage would count twice.

    Args:
        objective: what the others were trained with; it counts sequences, or tokens.
        advantage: [N] real numbers, of all responses of an optimizer step.
        layout: where the tokens of all N responses stand, as `Plan.step` takes it.

    Returns: `Metrics`; not a batch of its own.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded, merge, batch_metrics, plan, policy_loss, summary
    >>> planned = plan(np.array([1.0, 0.0, 0.7, 0.7]), np.array([5, 5, 9, 9]))
    >>> mask = np.full((4, 2), True)
    >>> rows, denominator = planned.step(GSPO, Padded(mask))
    >>> old = np.full((2, 2), -1.0)
    >>> batch = (old + 0.5, old, planned.advantage[rows], Padded(mask[rows]))
    >>> ran = batch_metrics(GSPO, policy_loss(GSPO, *batch, denominator=denominator), *batch)
    >>> numbers = summary(merge(ran, left_out_metrics(GSPO, planned.advantage, Padded(mask))))
    >>> [round(numbers[name], 6) for name in ("sequences", "zero_advantage", "clip_active", "log_s_mean")]
    [4.0, 0.5, 0.25, 0.5]
    """
    if not isinstance(objective, Objective):
        raise TypeError(f"objective: expected an Objective such as GSPO, got {type(objective).__name__}")
    check_layout(layout)
    xp = namespace(advantage=advantage, layout=layout.valid)
    if not is_real(xp, advantage):
        raise TypeError(f"advantage: expected real floating-point numbers, got dtype {advantage.dtype}")
    if shape_of(advantage) != (layout.num_sequences,):
        raise ValueError(
            f"advantage: expected shape [{layout.num_sequences}], one per sequence, got {list(shape_of(advantage))}"
        )
    advantage = detached(advantage)
    still = xp.astype(advantage == 0, advantage.dtype)
    rest = prepared(Restricted(layout, layout.spread(still) > 0), still)
    lengths = rest.lengths()
    held, there = xp.astype(lengths, advantage.dtype), lengths > 0
    nothing = xp.zeros_like(lengths, dtype=xp.int32)
    counts = {
        "sequences": count_true(xp, there),
        "empty": count_true(xp, (advantage == 0) & (layout.lengths() == 0)),
        "zero_advantage": count_true(xp, there),
        "tokens": xp.sum(lengths),
        "table": length_table(xp, lengths, nothing + 1, nothing),
    }
    extremes = {"length": lowest(xp, held, there)}, {"length": highest(xp, held, there)}
    found = Entries(counts, {"length_squares": xp.sum(held * held)}, *extremes)
    return ledger(xp, found | unit_entries(rest, own_count(objective.reduction, rest, advantage), "units"), advantage)
