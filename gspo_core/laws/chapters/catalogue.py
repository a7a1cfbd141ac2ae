"""All laws about losses, in the order in which they are checked."""

from __future__ import annotations

from gspo_core.laws.kit.law import Law

from .arrays.extremes import EXTREMES
from .arrays.layouts import LAYOUTS
from .arrays.masks import MASKS
from .arrays.numerics import NUMERICS
from .arrays.other_inputs import OTHER_INPUTS
from .arrays.reports import REPORTS
from .arrays.sizes import SIZES
from .averages.credit import CREDIT
from .averages.micro_batches import MICRO_BATCHES
from .averages.reduction import REDUCTION
from .formula.clip import CLIP
from .formula.clip_bounds import CLIP_BOUNDS
from .formula.gspo_token import GSPO_TOKEN_LAWS
from .formula.paper import PAPER
from .formula.ratio import RATIO
from .formula.ratio_algebra import RATIO_ALGEBRA
from .functions.clip_fraction import FRACTION_LAWS
from .functions.group_advantages import ADVANTAGE_LAWS
from .terms.kl import KL
from .terms.sampler import SAMPLER

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
    *SIZES,
    *EXTREMES,
    *REPORTS,
    *OTHER_INPUTS,
    *KL,
    *SAMPLER,
)


EVERY: tuple[Law, ...] = (*LAWS, *ADVANTAGE_LAWS, *FRACTION_LAWS)
"""Also the laws about advantages and clip fractions."""


def named(name: str) -> Law:
    """The law with this name."""
    for law in EVERY:
        if law.name == name:
            return law
    raise KeyError(f"no law is named {name!r}")
