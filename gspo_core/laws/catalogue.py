"""All laws about losses, in the order in which they are checked."""

from __future__ import annotations

from .clip import CLIP
from .credit import CREDIT
from .extras import EXTRAS
from .fraction import FRACTION_LAWS
from .law import Law
from .masks import MASKS
from .numerics import NUMERICS
from .paper import PAPER
from .parts import PARTS
from .ratio import RATIO
from .reduction import REDUCTION
from .rewards import ADVANTAGE_LAWS

LAWS: tuple[Law, ...] = (*PAPER, *RATIO, *CLIP, *CREDIT, *REDUCTION, *MASKS, *PARTS, *NUMERICS, *EXTRAS)


EVERY: tuple[Law, ...] = (*LAWS, *ADVANTAGE_LAWS, *FRACTION_LAWS)
"""Those about advantages and clip fractions, too."""


def named(name: str) -> Law:
    """The law with this name."""
    for law in EVERY:
        if law.name == name:
            return law
    raise KeyError(f"no law is named {name!r}")
