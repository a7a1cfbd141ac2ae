"""Attention over columns that are spread over ranks: every rank has its own queries, and the keys and values of all.

torch has a context parallelism of its own (torch.distributed.tensor.experimental.context_parallel). It exchanges the CUDA
kernels' partial results in a ring, has no rule for the kernel of a CPU, and takes no mask: a batch that is padded on the left,
as sampling leaves it, cannot be computed with it. Here transformers' own attention function runs on the rank's queries, with
keys and values gathered from the group; their gradient is the sum over its ranks. The model's own mask is asked for the rows
of the rank's columns, so that windows and chunks stay what they are.

A layer exchanges the keys and values of the batch, once forward and their gradients once backward. The mask has a byte for each
of the rank's columns times every column. Without padding on the left, as in micro-batches of one response, layers that attend
to everything have none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from integration.on_torch.parallel.columns import Columns
from integration.options.errors import UserError

NAME = "gspo_context"
CAUSAL: Any = causal_mask_function
"""What transformers asks to be masked in layers that attend to everything before a token."""


@dataclass
class Exchange:
    """A pass of a model whose columns are spread over a group."""

    columns: Columns
    group: dist.ProcessGroup
    base: str
    """The model's own attention: sdpa or eager."""
    device: torch.device

    def __post_init__(self) -> None:
        self.rank = dist.get_rank(self.group)
        self.mine = self.columns.of(self.rank).to(self.device)
        self._order = self.columns.order().to(self.device)

    def gathered(self, x: Tensor) -> Tensor:
        """[N, heads, w, D] of this rank ↦ [N, heads, padded, D] of all, in the batch's order, with gradient."""
        ranks: Tensor = _Gathered.apply(x, self.group)
        along = ranks.movedim(0, 2).flatten(2, 3)
        return along.index_select(2, self._order) if self.columns.zigzag else along


_CURRENT: list[Exchange] = []
"""The pass under way, at most one. Not local to a thread: on a GPU another one runs the backward pass, which recomputes."""


@contextmanager
def spread_attention(model: Any, columns: Columns, group: dist.ProcessGroup) -> Iterator[Exchange]:
    """Passes of the model inside are given the rank's columns of a batch, and attend to all of them.

    `attention_mask` is given for all columns, [N, padded]; ids and positions for the rank's own. Around the backward pass as
    well if layers are recomputed there. Raises UserError for a model whose attention transformers cannot exchange.
    """
    base = model.config._attn_implementation
    exchange = Exchange(columns, group, base, model.device)
    model.set_attn_implementation(NAME)
    if model.config.get_text_config()._attn_implementation != NAME:
        raise UserError(f"--context-parallel: {type(model).__name__} has an attention of its own, which cannot be exchanged")
    _CURRENT.append(exchange)
    try:
        yield exchange
    finally:
        _CURRENT.remove(exchange)
        model.set_attn_implementation(base)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """As transformers calls it: query [N, heads, w, D], attention_mask [N, 1, w, padded] ↦ [N, w, heads, D].

    Each of the rank's pieces by itself, with the keys and values up to its end, which is all that a causal model looks at.
    Without a mask a piece's tokens are the last ones of those, and look at all before them.
    """
    exchange = _CURRENT[-1]
    both = exchange.gathered(torch.cat([key, value], -1))
    key, value = both.split([key.shape[-1], value.shape[-1]], -1)
    compute, found, start = _base(module, exchange.base), [], 0
    for piece in exchange.columns.pieces(exchange.rank):
        own, seen = slice(start, start + piece.length), slice(0, piece.stop)
        start += piece.length
        mask = causal_lower_right(piece.length, piece.stop) if attention_mask is None else attention_mask[:, :, own, seen]
        found.append(compute(module, query[:, :, own], key[:, :, seen], value[:, :, seen], mask, **options)[0])
    return torch.cat(found, 1), None


def _base(module: Any, name: str) -> Callable[..., Any]:
    """The function that the model would call; `eager` is one of the file that the attention module is from."""
    if name == "eager":
        files = [sys.modules[kind.__module__] for kind in type(module).__mro__]  # FSDP2 makes a class of its own of a module's
        found = [f.eager_attention_forward for f in files if hasattr(f, "eager_attention_forward")]
    else:
        found = [AttentionInterface()[name]]
    function: Callable[..., Any] = found[0]
    return function


def _mask(mask_function: Callable[..., Tensor], attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """As transformers calls it: the mask [N, 1, w, padded] of the rank's own columns; None if it is not needed."""
    exchange = _CURRENT[-1]
    if exchange.base == "sdpa" and mask_function is CAUSAL and _is_padded_behind(attention_mask):
        return None
    mine = exchange.mine

    def at_columns(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask_function(batch, head, mine[query], key)

    base = AttentionMaskInterface()[exchange.base]
    options |= {"mask_function": at_columns, "attention_mask": attention_mask, "allow_is_causal_skip": False}
    made: Tensor | None = base(**options)
    return made


def _is_padded_behind(mask: Tensor | None) -> bool:
    """Whether padding only follows the tokens of a row, where a causal model never looks."""
    return mask is not None and bool((mask[:, 1:] <= mask[:, :-1]).all())


class _Gathered(torch.autograd.Function):
    """[...] on each rank ↦ [C, ...] on all; the gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        """One all-gather."""
        ctx.group = group
        whole = x.new_empty(dist.get_world_size(group), *x.shape)
        dist.all_gather(list(whole), x.contiguous(), group=group)
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """One reduce-scatter."""
        mine = torch.empty_like(grads[0][0], memory_format=torch.contiguous_format)
        dist.reduce_scatter(mine, list(grads[0].contiguous()), group=ctx.group)
        return mine, None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
