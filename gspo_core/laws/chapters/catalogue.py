"""All laws about losses, in the order in which they are checked."""

from __future__ import annotations

from gspo_core.laws.kit.law import Law

from .clip import CLIP
from .clip_bounds import CLIP_BOUNDS
from .clip_fraction import FRACTION_LAWS
from .credit import CREDIT
from .extremes import EXTREMES
from .group_advantages import ADVANTAGE_LAWS
from .gspo_token import GSPO_TOKEN_LAWS
from .layouts import LAYOUTS
from .masks import MASKS
from .micro_batches import MICRO_BATCHES
from .numerics import NUMERICS
from .other_inputs import OTHER_INPUTS
from .paper import PAPER
from .ratio import RATIO
from .ratio_algebra import RATIO_ALGEBRA
from .reduction import REDUCTION
from .reports import REPORTS

LAWS: tuple[Law, ...] = (
    *PAPER,
    *RATIO,
    *RATIO_ALGEBRA,
    *CLIP,
    *CLIP_BOUNDS,
    *CREDIT,
    *GSPO_TOKEN_LAWS,
    *REDUCTION,
    *MASKS,
    *MICRO_BATCHES,
    *LAYOUTS,
    *NUMERICS,
    *EXTREMES,
    *REPORTS,
    *OTHER_INPUTS,
)


EVERY: tuple[Law, ...] = (*LAWS, *ADVANTAGE_LAWS, *FRACTION_LAWS)
"""Also the laws about advantages and clip fractions."""


def named(name: str) -> Law:
    """The law with this name."""
    for law in EVERY:
        if law.name == name:
            return law
    raise KeyError(f"no law is named {name!r}")
