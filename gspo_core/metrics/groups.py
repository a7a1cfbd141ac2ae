"""Mergeable statistics of groups: how many have a signal."""

from __future__ import annotations

from gspo_core._lib.array import count_true, detached, is_integer, is_real, namespace, segment_sum, shape_of
from gspo_core.types import Array

from .ledger import Entries, Metrics, ledger


def group_metrics(advantage: Array, group_ids: Array) -> Metrics:
    """Number of groups, and of those without a signal: every advantage in them is exactly zero.

    A group of one response without an advantage has no signal, whatever its reward: it is counted apart, not as constant.

    Args:
        advantage: [N] real numbers, as `group_advantages` returns them.
        group_ids: [N] integers, equal for the responses to one prompt. A group must be in one call as a whole.

    Returns: `Metrics` in which only this is counted; `merge` it with those of the batch.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    >>> import numpy as np
    >>> from gspo_core import summary
    >>> numbers = summary(group_metrics(np.array([1.0, -1.0, 0.0, 0.0]), np.array([7, 7, 9, 9])))
    >>> numbers["groups"], numbers["constant_groups"]
    (2.0, 0.5)
    """
    xp = namespace(advantage=advantage, group_ids=group_ids)
    if not is_real(xp, advantage):
        raise TypeError(f"advantage: expected real floating-point numbers, got dtype {advantage.dtype}")
    if not is_integer(xp, group_ids):
        raise TypeError(f"group_ids: expected integers, got dtype {group_ids.dtype}")
    if len(shape_of(advantage)) != 1:
        raise ValueError(f"advantage: expected shape [N], got {list(shape_of(advantage))}")
    if shape_of(group_ids) != shape_of(advantage):
        raise ValueError(f"group_ids: expected shape {list(shape_of(advantage))}, got {list(shape_of(group_ids))}")
    label, size = xp.searchsorted(xp.sort(group_ids), group_ids), shape_of(advantage)[0]
    members = segment_sum(xp, xp.ones_like(label, dtype=xp.int32), label, size)
    live = segment_sum(xp, xp.astype(detached(advantage) != 0, xp.int32), label, size)
    counts = {
        "groups": count_true(xp, members > 0),
        "constant_groups": count_true(xp, (members > 1) & (live == 0)),
        "single_groups": count_true(xp, (members == 1) & (live == 0)),
        "grouped": xp.sum(members),
    }
    return ledger(xp, Entries(counts), detached(advantage))
