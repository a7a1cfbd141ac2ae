"""The routers of transformers' mixture-of-experts models: where they are, and how gate values follow from their logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class _Kind(NamedTuple):
    """How a router class computes gate values from its logits [tokens, E]: softmax in float32, the top K, perhaps
    divided by their sum."""

    always_normalises: bool
    """Divides by the sum over the chosen; otherwise the router's own `norm_topk_prob` says."""
    rounds: bool
    """Rounds the gate values to the dtype of the logits."""


# By class name, because this package does not import transformers. All of them return (logits, gate values, experts).
ROUTERS = {
    "Qwen3MoeTopKRouter": _Kind(False, True),
    "Qwen2MoeTopKRouter": _Kind(False, True),
    "OlmoeTopKRouter": _Kind(False, True),
    "MixtralTopKRouter": _Kind(True, False),
}


class Mixture(NamedTuple):
    """The parts of a model that take part in routing."""

    backbone: nn.Module
    """The module that holds the layers: called once per forward, and not when a checkpointed layer is run again."""
    routers: tuple[nn.Module, ...]
    """In the order of layers; empty for a dense model."""

    top_k: int
    """K, the experts of a token; 0 for a dense model."""
    num_experts: int
    """E, the experts of a layer; 0 for a dense model."""


def mixture_of(model: nn.Module) -> Mixture:
    """The backbone and the routers of a model. TypeError if it has routers or experts of a class that is not known."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch module, got {type(model).__name__}")
    named = dict(model.named_modules())
    routers = {name: module for name, module in named.items() if _kind(module)}
    strange = [type(m).__name__ for m in named.values() if "Router" in type(m).__name__ and not _kind(m)]
    if not routers:
        strange += [type(m).__name__ for m in named.values() if type(m).__name__.endswith("Experts")]
    if strange:
        raise TypeError(f"model: expected routers of {', '.join(ROUTERS)}, got {strange[0]}")
    above = (m for name, m in named.items() if _holds_layers(m) and all(r.startswith(f"{name}." * bool(name)) for r in routers))
    top_k, num_experts = (max((getattr(r, name) for r in routers.values()), default=0) for name in ("top_k", "num_experts"))
    return Mixture(next(above, model), tuple(routers.values()), top_k, num_experts)


def gate_values(router: nn.Module, logits: Tensor, experts: Tensor) -> Tensor:
    """[tokens, K] gate values of given experts [tokens, K], by the operations of the router's own forward."""
    kind = _kind(router)
    assert kind is not None
    probs = torch.softmax(logits, dim=-1, dtype=torch.float32)
    chosen = probs.gather(-1, experts)
    if kind.always_normalises or router.norm_topk_prob:
        chosen = chosen / chosen.sum(dim=-1, keepdim=True)
    return chosen.to(logits.dtype) if kind.rounds else chosen


def recomputes(model: nn.Module) -> bool:
    """Whether backward will run layers again, as transformers' gradient checkpointing does in training mode."""
    return any(m.training and getattr(m, "gradient_checkpointing", False) for m in model.modules())


def _kind(module: nn.Module) -> _Kind | None:
    # A wrapper such as FSDP makes a subclass.
    return next((ROUTERS[c.__name__] for c in type(module).__mro__ if c.__name__ in ROUTERS), None)


def _holds_layers(module: nn.Module) -> bool:
    return not isinstance(module, nn.ModuleList) and any(isinstance(child, nn.ModuleList) for child in module.children())
