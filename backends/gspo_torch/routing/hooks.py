"""Hooks on a model's backbone and routers for the time of a block, removed whatever happens in it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakSet

from torch import nn

from .routers import Mixture

_BUSY: WeakSet[nn.Module] = WeakSet()
"""Backbones that are being recorded or replayed."""


class Hooks:
    """Callbacks: the backbone begins, a router has run, the backbone ends."""

    def begin(self, shape: tuple[int, int], mask: Any, start: int) -> None:
        """A batch [N, S] whose first token stands at position `start`."""

    def routed(self, layer: int, router: nn.Module, output: Any) -> Any:
        """A router's output, or its replacement."""

    def end(self, output: Any) -> None:
        """The backbone's output; None if it raised."""


@contextmanager
def hooked(name: str, mixture: Mixture, hooks: Hooks) -> Iterator[None]:
    """Hooks on the backbone and its routers, removed whatever happens."""
    backbone = mixture.backbone
    if backbone in _BUSY:
        raise RuntimeError(f"{name}: the model is being recorded or replayed already; blocks of one model cannot be nested")
    with ExitStack() as stack:
        _BUSY.add(backbone)
        stack.callback(_BUSY.discard, backbone)
        names = inspect.signature(backbone.forward)

        def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = names.bind_partial(*args, **kwargs).arguments
            tokens = given["inputs_embeds"] if given.get("input_ids") is None else given["input_ids"]
            cache = given.get("past_key_values")
            hooks.begin(
                tuple(tokens.shape[:2]), given.get("attention_mask"), int(cache.get_seq_length()) if cache is not None else 0
            )

        def end(_: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            hooks.end(output)

        stack.enter_context(backbone.register_forward_pre_hook(begin, with_kwargs=True))
        stack.enter_context(backbone.register_forward_hook(end, always_call=True))
        for layer, router in enumerate(mixture.routers):
            stack.enter_context(router.register_forward_hook(_router_hook(hooks, layer)))
        yield


def _router_hook(hooks: Hooks, layer: int) -> Any:
    def ran(router: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        return hooks.routed(layer, router, output)

    return ran
