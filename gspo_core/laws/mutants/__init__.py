"""Mutants: losses that are wrong in one way each, most of them seen in public code, beside the law that each must break.

They prove the kit: a law that lets its mutants live is no law, and a mutant that no law names is a missing law.
"""

from gspo_core.laws.chapters.catalogue import named
from gspo_core.laws.checking import check, check_advantages, check_clip_fraction
from gspo_core.laws.kit.packing import OwnGradient, as_padded
from gspo_core.laws.kit.runner import Verdict

from .beside import BESIDE
from .clip import CLIP
from .credit import CREDIT
from .layouts import LAYOUTS, UNKNOWN
from .mutant import Kind, Mutant, gspo, right
from .ratio import RATIO
from .reports import REPORTS
from .weighting import WEIGHTING

MUTANTS: tuple[Mutant, ...] = (*WEIGHTING, *RATIO, *CLIP, *CREDIT, *REPORTS, *LAYOUTS, *UNKNOWN, *BESIDE)


def tried(mutant: Mutant, seed: int = 0) -> Verdict:
    """The named law's verdict on a mutant, with the usual number of examples."""
    laws = [named(mutant.law)]
    if mutant.kind is Kind.ADVANTAGE:
        report = check_advantages(mutant.loss, mutant.like, seed, laws=laws)
    elif mutant.kind in (Kind.SEQUENCE_FRACTION, Kind.TOKEN_FRACTION):
        tokens = mutant.kind is Kind.TOKEN_FRACTION
        report = check_clip_fraction(mutant.loss, mutant.like, seed, per_token=tokens, laws=laws)
    else:
        loss = as_padded(mutant.loss) if mutant.kind is Kind.PACKED else mutant.loss
        loss = loss() if mutant.kind is Kind.OBJECTIVE else loss
        report = check(loss, mutant.like, seed, claims=mutant.claims, names=mutant.names, laws=laws)
    return report.verdicts[0]


__all__ = ["MUTANTS", "Kind", "Mutant", "OwnGradient", "gspo", "right", "tried"]
