"""The LM head and its options as one value, and the checks of all arguments of the functions that use it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gspo_core.backend import as_number, check_layout
from gspo_core.layouts import Layout
from gspo_torch.distributed import VocabularyShard
from gspo_torch.door import admitted, admitted_layout, parameter


@dataclass(frozen=True, eq=False)
class Head:
    """The map from a hidden state to logits: z = cap · tanh((weight · h + bias) / cap) / temperature."""

    weight: Tensor
    """[V, H], or this rank's rows of it."""
    bias: Tensor | None = None
    """[V], or this rank's part."""
    temperature: float = 1.0
    """The sampling temperature."""
    soft_cap: float | None = None
    """Gemma's final_logit_softcapping; None for none."""
    shard: VocabularyShard | None = None
    """The part of the vocabulary that `weight` holds; None: all of it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", as_number("temperature", self.temperature))
        if self.soft_cap is not None:
            object.__setattr__(self, "soft_cap", as_number("soft_cap", self.soft_cap))

    @property
    def first(self) -> int:
        """The token id of the first row of `weight`."""
        return 0 if self.shard is None else self.shard.start

    @property
    def vocabulary(self) -> int:
        """V over all ranks."""
        return len(self.weight) if self.shard is None else self.shard.total

    def wide(self, hidden: Tensor) -> torch.dtype:
        """The dtype of logits and everything computed from them: float32, or float64 for float64 inputs."""
        both = torch.promote_types(hidden.dtype, self.weight.dtype)
        return torch.float64 if both == torch.float64 else torch.float32


def admit(hidden: Tensor, head: Head, tokens: Tensor, layout: Layout | None) -> tuple[Tensor, Head, Tensor, Layout | None]:
    """The arguments as tensors to compute with, a distributed head gathered; `check_head` and `check_slots` see to the rest."""
    hidden = admitted("hidden", hidden)
    if isinstance(hidden, Tensor) and hidden.is_meta:
        raise TypeError("hidden: expected a tensor with numbers, got one on the meta device, which has none")
    like, local = ("hidden", hidden), head.shard is not None
    weight, bias = (parameter(name, x, like, local) for name, x in (("lm_head", head.weight), ("bias", head.bias)))
    tokens = admitted("tokens", tokens, like)
    return (
        parameter("hidden", hidden, like, False),
        replace(head, weight=weight, bias=bias),
        tokens,
        admitted_layout(layout, like),
    )


def check_head(hidden: Tensor, head: Head, tokens: Tensor) -> None:
    """TypeError or ValueError, naming the argument, unless hidden [..., H], head and tokens [...] fit together."""
    named = (("hidden", hidden), ("lm_head", head.weight), ("tokens", tokens), ("bias", head.bias))
    for name, x in named:
        if not isinstance(x, Tensor) and not (x is None and name == "bias"):
            raise TypeError(f"{name}: expected a torch tensor, got {type(x).__module__}.{type(x).__name__}")
        if name != "tokens" and x is not None and not x.is_floating_point():
            raise TypeError(f"{name}: expected a floating-point tensor, got {x.dtype}")
    if tokens.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"tokens: expected int64 or int32 token ids, got {tokens.dtype}")
    if hidden.ndim < 1:
        raise ValueError("hidden: expected shape [..., H], got []")
    if head.shard is not None and not isinstance(head.shard, VocabularyShard):
        raise TypeError(f"vocabulary: expected a VocabularyShard or None, got {type(head.shard).__name__}")
    _check_shapes(hidden, head, tokens)
    if not 0.0 < head.temperature < math.inf:
        raise ValueError(f"temperature: expected a positive finite number, got {head.temperature}")
    if head.soft_cap is not None and not 0.0 < head.soft_cap < math.inf:
        raise ValueError(f"soft_cap: expected a positive finite number or None, got {head.soft_cap}")


def _check_shapes(hidden: Tensor, head: Head, tokens: Tensor) -> None:
    weight, bias, shard = head.weight, head.bias, head.shard
    if weight.ndim != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"lm_head: expected [V, H] with H = {hidden.shape[-1]} as in hidden {list(hidden.shape)}, got {list(weight.shape)}"
        )
    if tokens.shape != hidden.shape[:-1]:
        raise ValueError(f"tokens: expected {list(hidden.shape[:-1])}, hidden without its last axis, got {list(tokens.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: expected [V] = {list(weight.shape[:1])}, got {list(bias.shape)}")
    if shard is not None and shard.start + len(weight) > shard.total:
        raise ValueError(
            f"lm_head: {len(weight)} rows from row {shard.start} on do not fit into a vocabulary of {shard.total} (vocabulary)"
        )


def check_slots(layout: Layout, tokens: Tensor) -> None:
    """TypeError or ValueError unless `layout` is a layout of torch tensors with the shape of `tokens`."""
    check_layout(layout)
    mask = layout.valid
    if not isinstance(mask, Tensor):
        raise TypeError(f"layout: expected a layout of torch tensors, got one of {type(mask).__module__}.{type(mask).__name__}")
    if tuple(tokens.shape) != tuple(layout.shape):
        raise ValueError(f"tokens: expected the layout's shape {list(layout.shape)}, got {list(tokens.shape)}")


def check_ids(tokens: Tensor, head: Head) -> None:
    """ValueError unless all of the flat token ids are in [0, V). Reads two numbers back from the device."""
    if not len(tokens):
        return
    low, high = (int(x) for x in torch.stack(torch.aminmax(tokens)).tolist())
    if low < 0 or high >= head.vocabulary:
        raise ValueError(
            f"tokens: expected ids in [0, {head.vocabulary}), the rows of lm_head, got ids from {low} to {high}. "
            "Select the policy's tokens first, or pass their mask as the layout"
        )
