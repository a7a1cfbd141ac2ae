"""Mutants: losses that are wrong in one way each, most of them seen in public code, beside the law that each must break.

They prove the kit: a law that lets its mutants live is no law, and a mutant that no law names is a missing law.
"""

from .clip import CLIP
from .credit import CREDIT
from .mutant import Mutant, OwnGradient, gspo, right
from .ratio import RATIO
from .weighting import WEIGHTING

MUTANTS: tuple[Mutant, ...] = (*WEIGHTING, *RATIO, *CLIP, *CREDIT)

__all__ = ["MUTANTS", "Mutant", "OwnGradient", "gspo", "right"]
