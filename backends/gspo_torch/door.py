"""What torch calls a Tensor and cannot be computed with: turned into what can be, or refused by the argument's name.

A distributed head is gathered, a tensor made in inference mode is copied. Refused are distributed tensors elsewhere, sparse and
nested ones, and those of other devices.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import torch
from torch import Tensor

from gspo_core import PerToken
from gspo_core.layouts import Layout

from .apart import tensors_of, with_tensors

COMPUTED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_distributed(x: Any) -> bool:
    """Whether x is a DTensor. Without importing their module, which takes a second: nothing else makes them."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def admitted(name: str, x: Any, like: tuple[str, Tensor] | None = None) -> Any:
    """x as a tensor to compute with; unchanged what is no tensor, which others refuse.

    Args:
        name: the argument's name.
        like: (name, tensor) of the argument whose device it shares; a [] tensor may be on the CPU.

    Raises: TypeError for a distributed, sparse or nested tensor, ValueError for another device; each names the argument.

    >>> admitted("old_logp", torch.zeros(2).to_sparse())
    Traceback (most recent call last):
        ...
    TypeError: old_logp: expected a dense tensor, got one of layout torch.sparse_coo; pass its to_dense()
    """
    if not isinstance(x, Tensor):
        return x
    if is_distributed(x):
        raise TypeError(f"{name}: expected a plain tensor, got a DTensor; pass its full_tensor(), or this rank's to_local()")
    if x.is_nested or x.layout != torch.strided:
        layout, way = ("nested", "to_padded_tensor(0)") if x.is_nested else (x.layout, "to_dense()")
        raise TypeError(f"{name}: expected a dense tensor, got one of layout {layout}; pass its {way}")
    if like is not None and isinstance(like[1], Tensor) and x.device != like[1].device and (x.ndim or x.device.type != "cpu"):
        raise ValueError(f"{name}: expected the device of {like[0]}, {like[1].device}, got {x.device}")
    return _outside_inference(x)


def admitted_advantage(x: Any, like: tuple[str, Tensor]) -> Any:
    """`admitted` of an advantage, per token or not."""
    return PerToken(admitted("advantage", x.values, like)) if isinstance(x, PerToken) else admitted("advantage", x, like)


def admitted_layout(layout: Any, like: tuple[str, Tensor]) -> Any:
    """`admitted` of every tensor in a layout; unchanged what is no layout."""
    if not isinstance(layout, Layout):
        return layout
    held = tensors_of(layout)
    fit = [admitted("layout", x, like) for x in held]
    same = all(a is b for a, b in zip(held, fit, strict=True))
    return layout if same else with_tensors(layout, fit)


def admitted_term(kl: Any, like: tuple[str, Tensor]) -> Any:
    """`admitted` of the tensors in a `KLTerm`; None stays None."""
    if kl is None:
        return None
    ref, coefficient = (admitted(name, getattr(kl, name), like) for name in ("ref_logp", "coefficient"))
    return dataclasses.replace(kl, ref_logp=ref, coefficient=coefficient)


def parameter(name: str, x: Any, like: tuple[str, Tensor], local: bool) -> Any:
    """`admitted` of the head's weight or bias, which may be a DTensor: its whole, or this rank's part if `local`.

    The gradient of the whole is the mean over the mesh's ranks, in the parameter's own placement: what FSDP2 gives to
    all other parameters, and on ranks that hold the same tokens simply the gradient.
    """
    if is_distributed(x):
        x = x.to_local() if local else _whole(x)
    x = admitted(name, x, like)
    if isinstance(x, Tensor) and x.is_floating_point() and x.dtype not in COMPUTED:
        raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}; pass its to(torch.bfloat16)")
    return x


def _whole(x: Any) -> Tensor:
    partial = sys.modules["torch.distributed.tensor"].Partial()
    whole: Tensor = x.full_tensor(grad_placements=[partial] * x.device_mesh.ndim)
    if whole.requires_grad and x.device_mesh.size() > 1:
        ranks = x.device_mesh.size()
        whole.register_hook(lambda gradient: gradient / ranks)
    return whole


def _outside_inference(x: Tensor) -> Tensor:
    """x, or a copy that backward may keep: outside of inference mode autograd refuses to save a tensor that was made in it."""
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or not x.is_inference():
        return x
    return x.clone()
