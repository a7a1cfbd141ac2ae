"""A rollup of all processes, from the parts that each of them measured."""

from __future__ import annotations

from typing import Any

import torch
from gspo_torch import merge_over

from gspo_core import group_metrics
from gspo_core.metrics import Metrics
from integration.on_torch.parallel.processes import Processes, naming_lost_ranks
from integration.shared.measure import Rollup


def whole_rollup(rollup: Rollup, processes: Processes) -> Rollup:
    """On every process the same. The metrics take four all-reduces, and three numbers of each response are gathered."""
    if processes.mesh is None:
        return rollup
    group = processes.mesh.get_group("data")
    own = rollup.metrics()
    with naming_lost_ranks():
        merged = merge_over(_beside(own, processes.device), group)
        parts: list[Any] = [None] * processes.mesh.size(0)
        torch.distributed.all_gather_object(parts, rollup.lists(), group)
    return rollup.merged(list(_apart(merged, len(own))), parts)


def _beside(metrics: list[Metrics | None], device: torch.device) -> Metrics:
    """Several metrics in one, in float64; an empty batch in place of None. They merge by the element, and so does this."""
    nothing = group_metrics(torch.zeros(0, device=device), torch.zeros(0, dtype=torch.int64, device=device))
    columns = zip(*(nothing if each is None else each for each in metrics), strict=True)
    counts, *others = (torch.cat([torch.as_tensor(vector, device=device) for vector in vectors]) for vectors in columns)
    return Metrics(counts, *(vector.double() for vector in others))


def _apart(metrics: Metrics, count: int) -> list[Metrics]:
    """The opposite of `_beside`."""
    return [Metrics(*part) for part in zip(*(vector.chunk(count) for vector in metrics), strict=True)]
