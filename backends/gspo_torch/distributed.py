"""Exchange between ranks: 12 bytes per token for a vocabulary in parts, 12 per sequence for sequences in parts, in float32.

Vocabulary parallel: each rank holds some rows of the LM head and all tokens. Its log-sum-exp needs the maximum over ranks,
then the sums of exponentials and of picked logits; the gradient of the hidden states is summed, that of the head is local.
Context parallel: each rank holds some tokens of a sequence and the whole head: `sharded(layout, sum_over(group))`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gspo_core.backend import as_whole


@dataclass(frozen=True)
class VocabularyShard:
    """This rank's rows start … start + len(lm_head) − 1 of a head with `total` rows, the rest being on `group`'s other ranks.

    Ranks may hold unequal numbers of rows, or none. Hidden states and tokens are the same on every rank of the group, and
    so are the results, but for the gradient of the rank's own rows.

    Raises ValueError for bounds that are no row numbers, TypeError for a group that is none.

    >>> VocabularyShard(start=0, total=151936, group=None).total
    151936
    """

    start: int
    """Token id of this rank's first row."""
    total: int
    """V, the rows of all ranks together."""
    group: dist.ProcessGroup | None
    """The ranks that share the head; None: the default group."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", as_whole("total", self.total, 0))
        object.__setattr__(self, "start", as_whole("start", self.start, 0, self.total))
        check_group(self.group)

    def maximum(self, x: Tensor) -> Tensor:
        """x, replaced by its maximum over the group."""
        dist.all_reduce(x, dist.ReduceOp.MAX, group=self.group)
        return x

    def sum(self, x: Tensor) -> Tensor:
        """x, replaced by its sum over the group."""
        dist.all_reduce(x, dist.ReduceOp.SUM, group=self.group)
        return x


def check_group(group: Any) -> None:
    """TypeError for what is no process group, nor None for the default one."""
    if group is not None and not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"group: expected a ProcessGroup or None, got {type(group).__name__}")


def sum_over(group: dist.ProcessGroup | None = None) -> Callable[[Tensor], Tensor]:
    """x ↦ its sum over the ranks of a group, as `gspo_core.sharded` wants it: sharded(Padded(mask), sum_over(group)).

    None is the default group. The input is left as it is, and no gradient flows through (none is needed). Before integers on a
    CPU are added up, which a layout does once, with its lengths, the ranks compare how many they are, 16 bytes: unequal numbers
    would wait for each other until the time-out. On a GPU this would wait for the device, and is left out.

    Returns: a function of one tensor.

    Raises: TypeError for a group that is none; the function raises ValueError on every rank if their layouts do not have the
    same number of sequences, and torch's ValueError if there is no process group yet.

    >>> callable(sum_over())
    True
    """
    check_group(group)

    def all_sum(x: Tensor) -> Tensor:
        if not x.is_floating_point() and x.device.type == "cpu" and not torch.compiler.is_compiling():
            _check_lengths(x.numel(), group)
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, dist.ReduceOp.SUM, group=group)
        return total

    return all_sum


def _check_lengths(count: int, group: dist.ProcessGroup | None) -> None:
    """ValueError, on every rank, unless all ranks of the group have the same count."""
    ends = torch.tensor([count, -count])
    dist.all_reduce(ends, dist.ReduceOp.MAX, group=group)
    most, least = int(ends[0]), -int(ends[1])
    if most != least:
        raise ValueError(
            f"layout: expected the same number of sequences, or of their turns, on every rank, got {least} to {most} "
            f"({count} here)"
        )
