"""All laws about losses, in the order in which they are checked."""

from __future__ import annotations

from .clip import CLIP
from .credit import CREDIT
from .extras import EXTRAS
from .law import Law
from .masks import MASKS
from .numerics import NUMERICS
from .paper import PAPER
from .parts import PARTS
from .ratio import RATIO
from .reduction import REDUCTION

LAWS: tuple[Law, ...] = (*PAPER, *RATIO, *CLIP, *CREDIT, *REDUCTION, *MASKS, *PARTS, *NUMERICS, *EXTRAS)


def named(name: str) -> Law:
    """The law with this name."""
    for law in LAWS:
        if law.name == name:
            return law
    raise KeyError(f"no law is named {name!r}")
