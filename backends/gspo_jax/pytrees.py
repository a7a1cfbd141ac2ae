"""Layouts as pytrees: their arrays are data, everything else is static.

Under vmap every field gains an axis that its checks know nothing of, and jax itself rebuilds containers around
placeholders; so a layout is rebuilt here without its checks, which it passed when it was first made.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from gspo_core import Packed, Padded, PerToken, Turns
from gspo_core.kl import KLTerm
from gspo_core.layouts.restricted import Restricted
from gspo_core.layouts.shards import Sharded
from gspo_core.layouts.turns import Folded
from gspo_core.layouts.weighted import Weighted
from gspo_core.types import EachTurn

DATA: dict[type, tuple[str, ...]] = {
    Padded: ("mask",),
    Packed: ("segment_ids",),
    Sharded: ("layout", "whole_lengths", "whole_turns"),
    Restricted: ("layout", "kept"),
    Weighted: ("layout", "weights"),
    Turns: ("layout", "turn_ids"),
    Folded: ("layout",),
    EachTurn: ("each",),
    PerToken: ("values",),
    KLTerm: ("ref_logp", "coefficient"),
}
"""Which fields hold arrays, or something that does."""


def register() -> None:
    """Tells jax of all of them. Once: jax refuses a second time."""
    for kind, data in DATA.items():
        static = tuple(field.name for field in dataclasses.fields(kind) if field.name not in data)
        _register(kind, data, static)


def _register(kind: type, data: tuple[str, ...], static: tuple[str, ...]) -> None:
    def flatten_with_keys(x: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        return [(jax.tree_util.GetAttrKey(name), getattr(x, name)) for name in data], tuple(getattr(x, n) for n in static)

    def unflatten(aux: tuple[Any, ...], children: Any) -> Any:
        x: Any = object.__new__(kind)
        for name, value in zip((*data, *static), (*children, *aux), strict=True):
            object.__setattr__(x, name, value)
        return x

    jax.tree_util.register_pytree_with_keys(kind, flatten_with_keys, unflatten)
