"""Hooks on a model's backbone, and routers under watch, for the time of a block; removed whatever happens in it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn

from .routers import Mixture
from .selection import Selection

_BUSY: WeakSet[nn.Module] = WeakSet()
"""Backbones that are being recorded or replayed."""


class Hooks:
    """Callbacks: the backbone begins, a router chooses, the backbone ends."""

    def begin(self, shape: tuple[int, int], mask: Any, start: int) -> None:
        """A batch [N, S] whose first token stands at position `start`."""

    def chosen(self, layer: int, experts: Tensor) -> Tensor | None:
        """The experts [..., K] that a router takes; returns those to be taken instead, or None for the same."""

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
        for layer in range(len(mixture.routers)):
            stack.enter_context(_selecting(mixture, layer, hooks))
        yield


@contextmanager
def _selecting(mixture: Mixture, layer: int, hooks: Hooks) -> Iterator[None]:
    """A router's forward under `Selection`; RuntimeError where it does not choose exactly once."""
    router = mixture.routers[layer]
    forward, before = router.forward, vars(router).get("forward")

    @functools.wraps(forward)
    def selecting(*args: Any, **kwargs: Any) -> Any:
        groups = hasattr(router, "num_group")
        with Selection(mixture.top_k, mixture.widths[layer], groups, lambda experts: hooks.chosen(layer, experts)) as selection:
            output = forward(*args, **kwargs)
        if selection.count != 1:
            raise RuntimeError(
                f"model: expected {type(router).__name__} to choose once, {mixture.top_k} of {mixture.widths[layer]} experts "
                f"by topk over the last axis, got {selection.count} such choices; its routes cannot be replayed"
            )
        return output

    router.forward = selecting
    try:
        yield
    finally:
        if before is None:
            del router.forward
        else:
            router.forward = before
