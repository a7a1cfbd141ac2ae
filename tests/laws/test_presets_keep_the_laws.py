"""The objectives of this package keep every law that applies to them, with other clip ranges and in other combinations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from support.cases import CLIPS
from support.family import MEMBERS, Member

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Clip, Objective, Sequence, SequenceMean, Token, TokenMean, laws
from gspo_core.objectives import (
    Band,
    BinaryKL,
    FixedLength,
    GammaWeight,
    OffPolicyMask,
    Product,
    ProductToken,
    TokenClip,
    TotalVariation,
    TruncatedWeight,
    Unclipped,
)

QUICK = {"VESPO"}
"""The others take two seconds each, and test_checking asks GSPO."""
BANDS = [replace(preset, surrogate=Clip(*clip)) for preset in (GSPO, GSPO_TOKEN, GRPO) for clip in CLIPS[1:]]
# Ratios, surrogates, gates and reductions in combinations that no preset has.
COMBINED = [
    replace(GSPO_TOKEN, reduction=TokenMean()),
    replace(GSPO_TOKEN, reduction=FixedLength(1)),
    replace(GSPO, surrogate=Unclipped(), gate=TokenClip(30.0, 30.0)),
    replace(GSPO, surrogate=Unclipped(), gate=OffPolicyMask(-math.log1p(-0.02))),
    Objective(Sequence(), Unclipped(), SequenceMean(), Band(0.05, 1.0)),
    Objective(Product(), Unclipped(), SequenceMean(), Band(0.3, 0.0)),
    Objective(Product(), Unclipped(), SequenceMean(), Band(0.3, 1.0)),
    Objective(Product(), GammaWeight(), SequenceMean()),
    Objective(ProductToken(), GammaWeight(), SequenceMean()),
    Objective(Token(), TruncatedWeight(1e30), TokenMean()),
    Objective(Token(), TruncatedWeight(5.0, 0.5), FixedLength(7)),
    Objective(Token(), Unclipped(), SequenceMean(), OffPolicyMask(0.5)),
    Objective(Sequence(), Unclipped(), SequenceMean(), TotalVariation(0.1, 0.3)),
    Objective(Token(), TruncatedWeight(20.0), TokenMean(), BinaryKL(0.05, 0.02)),
]


@pytest.mark.parametrize(
    "member",
    [pytest.param(m, id=m.name, marks=() if m.name in QUICK else pytest.mark.slow) for m in MEMBERS],
)
def test_every_preset_keeps_its_laws(member: Member) -> None:
    report = laws.check(member.objective, like=member.objective, examples=5)
    assert not report.broken, str(report)
    assert not report.untested, str(report)
    assert len(report.kept) > 30


@pytest.mark.slow
@pytest.mark.parametrize("objective", BANDS, ids=str)
def test_with_another_clip_range(objective: Objective) -> None:
    report = laws.check(objective, like=objective, examples=4)
    assert not report.broken, str(report)
    # No batch has units inside a clip range of width 0.
    untested = {v.law.name for v in report.verdicts if v.status is laws.Status.UNTESTED}
    assert not untested or objective.surrogate == Clip(0.0, 0.0), untested
    assert len(report.kept) > 40


@pytest.mark.slow
@pytest.mark.parametrize("objective", COMBINED, ids=str)
def test_in_another_combination(objective: Objective) -> None:
    report = laws.check(objective, like=objective, examples=4)
    assert not report.broken, str(report)
    assert not report.untested, str(report)
    assert {"the value is the paper's", "the gradient is the paper's"} <= {v.law.name for v in report.kept}


@pytest.mark.slow
def test_equal_seeds_equal_reports() -> None:
    mutant, asked = laws.MUTANTS[0], [law for law in laws.LAWS if law.chapter in {"paper", "masks", "sizes"}]
    first, second = (laws.check(mutant.loss, mutant.like, seed=3, examples=6, laws=asked).json() for _ in range(2))
    assert '"counterexample"' in first
    assert first == second
