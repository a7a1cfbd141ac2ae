"""Metrics of all ranks as those of one: four all-reduces, whatever the sizes of batch, sequences and vocabulary."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from gspo_core.metrics import Metrics

from .distributed import check_group


def merge_over(metrics: Metrics, group: dist.ProcessGroup | None = None) -> Metrics:
    """`gspo_core.merge` of the metrics of every rank, on every rank: counts and sums are added, the extremes are kept.

    Four all-reduces of vectors whose lengths are constants of the library. A NaN among the extremes stays one, as in `merge`:
    the ranks add up who has one beside their counts, since the minimum of a number and NaN differs between communication
    libraries. The input is left as it is, and no gradient flows through.

    Args:
        metrics: of this rank: of `batch_metrics` or others, merged before or not. A rank without a sequence passes those of an
            empty batch. On a sharded layout metrics are those of whole sequences on every rank that shares them: merge over the
            data-parallel ranks only, as you would add up losses.
        group: the ranks; None: the default group.

    Returns: `Metrics`, the same bits on every rank.

    Raises: TypeError for what is no `Metrics` of torch tensors, or a group that is none; torch's ValueError if there is no
        process group yet.

    >>> import torch.distributed as dist
    >>> from gspo_core import group_metrics, summary
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> numbers = summary(merge_over(group_metrics(torch.tensor([1.0, -1.0]), torch.tensor([3, 3]))))
    >>> dist.destroy_process_group()
    >>> numbers["groups"]
    1.0
    """
    check_group(group)
    if not isinstance(metrics, Metrics):
        raise TypeError(f"metrics: expected Metrics, got {type(metrics).__name__}")
    for vector in metrics:
        if not isinstance(vector, Tensor):
            raise TypeError(f"metrics: expected Metrics of torch tensors, got {type(vector).__name__}")
    counts, sums, minima, maxima = (vector.detach() for vector in metrics)
    lost = torch.cat([minima.isnan(), maxima.isnan()])
    counts, sums = torch.cat([counts, lost.to(counts.dtype)]), sums.clone()
    minima, maxima = torch.where(minima.isnan(), math.inf, minima), torch.where(maxima.isnan(), -math.inf, maxima)
    for vector, op in (
        (counts, dist.ReduceOp.SUM), (sums, dist.ReduceOp.SUM), (minima, dist.ReduceOp.MIN), (maxima, dist.ReduceOp.MAX),
    ):  # fmt: skip
        dist.all_reduce(vector, op, group=group)
    counts, no_minimum, no_maximum = counts.split([len(metrics.counts), len(minima), len(maxima)])
    minima, maxima = (torch.where(lost > 0, math.nan, kept) for lost, kept in ((no_minimum, minima), (no_maximum, maxima)))
    return Metrics(counts, sums, minima, maxima)
