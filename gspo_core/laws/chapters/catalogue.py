"""All laws about losses, in the order in which they are checked."""

from __future__ import annotations

from gspo_core.laws.kit.law import Law

from .algebra import ALGEBRA
from .clip import CLIP
from .credit import CREDIT
from .edges import EDGES
from .extras import EXTRAS
from .extremes import EXTREMES
from .fraction import FRACTION_LAWS
from .layouts import LAYOUTS
from .masks import MASKS
from .numerics import NUMERICS
from .paper import PAPER
from .parts import PARTS
from .ratio import RATIO
from .reduction import REDUCTION
from .reports import REPORTS
from .rewards import ADVANTAGE_LAWS
from .tokens import TOKENS

LAWS: tuple[Law, ...] = (
    *PAPER,
    *RATIO,
    *ALGEBRA,
    *CLIP,
    *EDGES,
    *CREDIT,
    *TOKENS,
    *REDUCTION,
    *MASKS,
    *PARTS,
    *LAYOUTS,
    *NUMERICS,
    *EXTREMES,
    *REPORTS,
    *EXTRAS,
)


EVERY: tuple[Law, ...] = (*LAWS, *ADVANTAGE_LAWS, *FRACTION_LAWS)
"""Those about advantages and clip fractions, too."""


def named(name: str) -> Law:
    """The law with this name."""
    for law in EVERY:
        if law.name == name:
            return law
    raise KeyError(f"no law is named {name!r}")
