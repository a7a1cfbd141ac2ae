"""Layouts taken apart: autograd, vmap and torch.compile must see every tensor as an argument of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

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
