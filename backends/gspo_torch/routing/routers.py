"""Where a mixture of experts has its routers, by rules that hold for transformers' models and not by a list of them.

A mixture layer is the parent of a module `experts`, or of one whose class is called ...Experts. Its router is the one child,
or the layer itself, whose own code calls `topk`. How gate values follow from what it chose stays the router's own affair:
`selection.py` answers that call alone.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from types import CodeType
from typing import Any, NamedTuple

from torch import Tensor, nn

_TOP_K = ("top_k", "num_experts_per_tok", "top_k_experts")
_WIDTH = ("num_experts", "n_routed_experts", "num_router_classes", "moe_num_experts")
"""The names of E; where a router has several, the scores have the largest: some choose among no expert, too."""
_CONFIG = (*_WIDTH[:2], "num_local_experts", "moe_num_experts")
_WRAPPERS = ("base_layer", "_fsdp_wrapped_module", "_orig_mod")
_LAYER = ("MoE", "Moe", "MoeBlock", "MoEBlock", "Gating", "MoEGate")


class Mixture(NamedTuple):
    """The parts of a model that take part in routing."""

    backbone: nn.Module
    """The module that holds the layers: called once per forward, and not when a checkpointed layer is run again."""
    routers: tuple[nn.Module, ...]
    """Modules in whose forward experts are chosen, in the order of layers; empty for a dense model."""
    readers: tuple[nn.Module, ...]
    """Whose input is what the router sees: the routers, but where a mixture layer chooses itself, the module that scores."""
    top_k: int
    """K, the experts of a token; 0 for a dense model."""
    widths: tuple[int, ...]
    """The experts of each layer."""

    @property
    def num_experts(self) -> int:
        """E, the experts of the layer that has the most; 0 for a dense model."""
        return max(self.widths, default=0)


def mixture_of(model: nn.Module) -> Mixture:
    """The backbone and the routers of a model. TypeError if it has experts, or a config that names some, but no such router."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch module, got {type(model).__name__}")
    named = dict(model.named_modules())
    layers = {name: layer for name, layer in named.items() if _is_mixture(layer)}
    routers = {name: _router(layer) for name, layer in layers.items() if not _decides_by_token(layer)}
    strange = [type(m).__name__ for name, m in named.items() if _sounds_like_one(m) and not _inside(name, layers)]
    if strange or (not routers and _names_experts(model)):
        raise TypeError(
            "model: expected a dense model, or a mixture whose layers have experts beside a router that calls topk, "
            f"got {(strange or [type(model).__name__])[0]}; its routes cannot be recorded"
        )
    sizes = [sizes_of(router, layers[name]) for name, router in routers.items()]
    per_token = sorted({k for k, _ in sizes})
    if len(per_token) > 1:
        raise TypeError(f"model: expected as many experts per token in every layer, got {' and '.join(map(str, per_token))}")
    above = (m for name, m in named.items() if _holds_layers(m) and all(r.startswith(f"{name}." * bool(name)) for r in routers))
    chosen = tuple(routers.values())
    return Mixture(
        next(above, model), chosen, tuple(_reader(r) for r in chosen), max(per_token, default=0), tuple(e for _, e in sizes)
    )


def sizes_of(router: nn.Module, layer: nn.Module) -> tuple[int, int]:
    """(K, E) of a router. TypeError if neither it, nor its config, nor the layer's experts tell."""
    places = [router, getattr(router, "config", None), *(m for _, m in _children(layer))]
    numbers = []
    for names in (_TOP_K, _WIDTH):
        found = ([v for n in names if type(v := getattr(place, n, None)) is int] for place in places)
        numbers.append(max(next(filter(None, found), [0])))
    if not all(numbers):
        raise TypeError(f"model: expected routers with one of {_TOP_K} and of {_WIDTH}, got {type(router).__name__}")
    return numbers[0], numbers[1]


def recomputes(model: nn.Module) -> bool:
    """Whether backward will run layers again, as transformers' gradient checkpointing does in training mode."""
    return any(m.training and getattr(m, "gradient_checkpointing", False) for m in model.modules())


def _router(layer: nn.Module) -> nn.Module:
    """The one module of a mixture layer that chooses. TypeError if there is none, or more than one."""
    choosing = [m for m in (layer, *(m for n, m in _children(layer) if not _are_experts(n, m))) if _calls_topk(type(m))]  # type: ignore[arg-type]  # mypy takes no class for hashable
    if len(choosing) != 1:
        got = "none" if not choosing else " and ".join(type(m).__name__ for m in choosing)
        children = ", ".join(type(m).__name__ for n, m in _children(layer))
        raise TypeError(f"model: expected one router that calls topk in {type(layer).__name__} ({children}), got {got}")
    return choosing[0]


def _reader(router: nn.Module) -> nn.Module:
    """Of a mixture layer that chooses itself, its child that gives scores; a router otherwise."""
    return next((m for _, m in _children(router) if "Router" in type(m).__name__), router)


def _is_mixture(module: nn.Module) -> bool:
    return not _wraps(module) and any(_are_experts(name, child) for name, child in _children(module))


def _are_experts(name: str, module: nn.Module) -> bool:
    """What is called experts may be a whole mixture layer."""
    return type(module).__name__.endswith("Experts") or (name == "experts" and not _is_mixture(module))


def _decides_by_token(layer: nn.Module) -> bool:
    """DeepSeek-V4's hash layers: a fixed table gives the experts of each token, so that they never change."""
    return any(isinstance(getattr(m, "tid2eid", None), Tensor) for _, m in _children(layer))


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What is inside of a wrapper stands for it."""
    for name, child in module.named_children():
        inner = child
        while _wraps(inner):
            inner = next(m for n, m in inner.named_children() if n in _WRAPPERS)
        yield name, inner


def _wraps(module: nn.Module) -> bool:
    return any(name in _WRAPPERS for name, _ in module.named_children())


@functools.cache
def _calls_topk(kind: type) -> bool:
    """Whether a function that a class defines, or inherits from another than torch's, has `topk` among its names."""
    own = (f for c in kind.__mro__ if not c.__module__.startswith("torch.") for f in vars(c).values() if inspect.isfunction(f))
    return any("topk" in names for f in own for names in _names(inspect.unwrap(f).__code__))


def _names(code: CodeType) -> Iterator[tuple[str, ...]]:
    yield code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _sounds_like_one(module: nn.Module) -> bool:
    name = type(module).__name__
    return "Router" in name or name.endswith(("Experts", *_LAYER))


def _inside(name: str, layers: dict[str, nn.Module]) -> bool:
    return any(name == layer or name.startswith(f"{layer}." * bool(layer)) for layer in layers)


def _names_experts(model: nn.Module) -> bool:
    """Whether a config, of the model or of a part of it, says that there are several experts."""
    configs: dict[int, Any] = {id(config): config for m in model.modules() if (config := vars(m).get("config")) is not None}
    return any(_several(getattr(config, name, None)) for config in configs.values() for name in _CONFIG)


def _several(number: Any) -> bool:
    return max(number, default=0) > 1 if isinstance(number, list | tuple) else isinstance(number, int) and number > 1


def _holds_layers(module: nn.Module) -> bool:
    return not isinstance(module, nn.ModuleList) and any(isinstance(child, nn.ModuleList) for child in module.children())
