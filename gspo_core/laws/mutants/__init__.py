"""Mutants: losses with one mistake each, many of them seen in public code, paired with the law that must detect it.

They test the kit itself: each law has at least one mutant that breaks it.
"""

from gspo_core.laws.chapters.catalogue import named
from gspo_core.laws.checking import check, check_advantages, check_clip_fraction
from gspo_core.laws.kit.packing import OwnGradient, as_padded
from gspo_core.laws.kit.report import Report

from .clip import CLIP
from .clip_fraction import CLIP_FRACTION
from .credit import CREDIT
from .gates import GATES
from .group_advantages import GROUP_ADVANTAGES
from .layouts import LAYOUTS, PACKED, UNKNOWN
from .mutant import Mutant, MutantKind, gspo, right
from .ratio import RATIO
from .reduction import REDUCTION
from .reports import REPORTS
from .shapes import SHAPES
from .sizes import SIZES
from .strangers import STRANGERS
from .terms import TERMS

MUTANTS: tuple[Mutant, ...] = (
    *REDUCTION,
    *RATIO,
    *CLIP,
    *CREDIT,
    *SIZES,
    *GATES,
    *TERMS,
    *REPORTS,
    *LAYOUTS,
    *UNKNOWN,
    *GROUP_ADVANTAGES,
    *CLIP_FRACTION,
    *PACKED,
    *STRANGERS,
    *SHAPES,
)


def check_mutant(mutant: Mutant, seed: int = 0) -> Report:
    """Runs the law that must detect a mutant on it, with the usual number of examples; its verdict is the only one."""
    laws = [named(mutant.law)]
    if mutant.kind is MutantKind.ADVANTAGE:
        return check_advantages(mutant.loss, mutant.like, seed, laws=laws)
    if mutant.kind in (MutantKind.SEQUENCE_FRACTION, MutantKind.TOKEN_FRACTION):
        tokens = mutant.kind is MutantKind.TOKEN_FRACTION
        return check_clip_fraction(mutant.loss, mutant.like, seed, per_token=tokens, laws=laws)
    loss = as_padded(mutant.loss) if mutant.kind is MutantKind.PACKED else mutant.loss
    loss = loss() if mutant.kind is MutantKind.OBJECTIVE else loss
    return check(loss, mutant.like, seed, claims=mutant.claims, names=mutant.names, laws=laws)


__all__ = ["MUTANTS", "Mutant", "MutantKind", "OwnGradient", "check_mutant", "gspo", "right"]
