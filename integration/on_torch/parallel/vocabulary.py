"""A vocabulary-parallel LM head: each rank of a group multiplies the same states with its own rows of the head."""

from __future__ import annotations

from typing import NamedTuple

import torch.distributed as dist
from gspo_torch import ModelHead, VocabularyShard
from torch import Tensor


class Rows(NamedTuple):
    """A rank's part of a head, as arguments of the LM-head functions."""

    head: ModelHead
    """With the rank's rows of weight and bias."""
    shard: VocabularyShard


def rows_of(head: ModelHead, group: dist.ProcessGroup) -> Rows:
    """This rank's rows of a whole head, as equal in number as they can be.

    Data-parallel training averages gradients over all ranks. That of the body is the same on every rank of the group, and the
    average leaves it as it is; a row of the head has its gradient on one rank alone, so here it is multiplied by their number.
    The head may be tied to the embedding, whose own gradient then adds up with it.
    """
    total, ranks, rank = len(head.weight), dist.get_world_size(group), dist.get_rank(group)
    start, stop = total * rank // ranks, total * (rank + 1) // ranks
    weight = _multiplied(head.weight[start:stop], ranks)
    bias = None if head.bias is None else _multiplied(head.bias[start:stop], ranks)
    return Rows(head._replace(weight=weight, bias=bias), VocabularyShard(start, total, group))


def _multiplied(part: Tensor, factor: int) -> Tensor:
    """A slice of a parameter, with its gradient times a factor."""
    if part.requires_grad:
        part.register_hook(lambda gradient: gradient * factor)
    return part
