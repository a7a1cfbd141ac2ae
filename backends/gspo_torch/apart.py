"""Layouts taken apart, and autograd functions applied: autograd, vmap and torch.compile must see every tensor by itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor


def _fields(layout: Any) -> list[str]:
    """Names of the fields that are tensors, or hold some: layouts are dataclasses, and may stand inside each other."""
    if not dataclasses.is_dataclass(layout) or isinstance(layout, type):
        return []
    names = [field.name for field in dataclasses.fields(layout)]
    return [name for name in names if isinstance(x := getattr(layout, name), Tensor) or _fields(x)]


def tensors_of(layout: Any) -> list[Tensor]:
    """Every tensor in a layout, in the order of fields."""
    fields = [getattr(layout, name) for name in _fields(layout)]
    return [x for field in fields for x in ([field] if isinstance(field, Tensor) else tensors_of(field))]


def with_tensors(layout: Any, tensors: list[Tensor]) -> Any:
    """The layout with other tensors in its fields. Takes them from the front of the list."""
    new: dict[str, Any] = {}
    for name in _fields(layout):
        old = getattr(layout, name)
        mine = 1 if isinstance(old, Tensor) else len(tensors_of(old))
        new[name] = tensors[0] if isinstance(old, Tensor) else with_tensors(old, tensors[:mine])
        tensors = tensors[mine:]
    return dataclasses.replace(layout, **new) if new else layout


def applied(function: Any, logp: Tensor, *others: Any) -> tuple[Tensor, ...]:
    """`function.apply(logp, *others)`, for a function with a gradient for `logp` alone; also inside of torch.compile.

    Dynamo keeps a Python number that it first meets inside of an autograd function in that function's own graph, where the
    rest cannot use it; so forward stands in the graph around it, too, which costs nothing, since nothing reads its result.
    And without a gradient Dynamo counts the arguments of forward to find out whether it wants a context.
    """
    if not torch.compiler.is_compiling():
        return function.apply(logp, *others)  # type: ignore[no-any-return]  # torch does not say
    outside: tuple[Tensor, ...] = function.forward(logp, *others)
    return function.apply(logp, *others) if logp.requires_grad and torch.is_grad_enabled() else outside
