"""Our own objectives keep every law that they claim, and the laws' oracle is the papers'."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from support.cases import CLIPS, Batch, batches
from support.family import MEMBERS, Member, by_member, largest
from support.oracles import family as oracle_family

from gspo_core import GRPO, GSPO, GSPO_TOKEN, Clip, Objective, Sequence, SequenceMean, Token, TokenMean, laws
from gspo_core.laws.kit import oracle
from gspo_core.objectives import (
    Band,
    FixedLength,
    GammaWeight,
    OffPolicyMask,
    Product,
    ProductToken,
    TokenClip,
    TruncatedWeight,
    Unclipped,
)

BANDS = [replace(preset, surrogate=Clip(*clip)) for preset in (GSPO, GSPO_TOKEN, GRPO) for clip in CLIPS[1:]]
# Words in other company than that of the presets.
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
]


@by_member
def test_every_preset_keeps_its_laws(member: Member) -> None:
    report = laws.check(member.objective, like=member.objective, examples=15)
    assert report.ok, str(report)
    assert len(report.kept) > 30


@pytest.mark.parametrize("objective", BANDS, ids=str)
def test_with_another_band(objective: Objective) -> None:
    report = laws.check(objective, like=objective, examples=6)
    assert not report.broken, str(report)
    # With a band of width 0 nothing is inside of it.
    vacuous = {v.law.name for v in report.verdicts if v.status is laws.Status.VACUOUS}
    assert not vacuous or objective.surrogate == Clip(0.0, 0.0), vacuous
    assert len(report.kept) > 40


@pytest.mark.parametrize("objective", COMBINED, ids=str)
def test_in_other_company(objective: Objective) -> None:
    report = laws.check(objective, like=objective, examples=5)
    assert report.ok, str(report)
    assert {"the value is the paper's", "the gradient is the paper's"} <= {v.law.name for v in report.kept}


@pytest.mark.parametrize("member", [m for m in MEMBERS if m.name in oracle_family.METHODS], ids=lambda member: member.name)
@settings(max_examples=15)
@given(batch=batches(edges=False, max_tokens=5))
def test_the_laws_oracle_is_the_oracle_of_the_papers(member: Member, batch: Batch) -> None:
    """Two sets of scalar loops: this one reads an objective's numbers, the other has the papers' written into it."""
    assume(largest(batch) < 49.0)
    advantage = member.advantage(batch, False)
    expected = member.judged(batch, advantage)
    wide = np.repeat(advantage[:, None], batch.mask.shape[1], axis=1)
    rows = (batch.logp.tolist(), batch.old_logp.tolist(), wide.tolist(), batch.mask.tolist())
    found = oracle.judge(member.objective, *rows)
    assert found.value == pytest.approx(expected.value, rel=1e-12, abs=1e-12 * expected.scale)
    assert found.weight == [pytest.approx(row, rel=1e-12, abs=1e-290) for row in expected.weight]


def test_the_published_formulas_have_loops_of_their_own() -> None:
    """Without them the oracle of the laws would be compared with itself."""
    assert len(oracle_family.METHODS) > 10
    assert set(oracle_family.METHODS) <= {member.name for member in MEMBERS}


def test_equal_seeds_equal_reports() -> None:
    first, second = (laws.check(laws.MUTANTS[0].loss, laws.MUTANTS[0].like, seed=3, examples=20).json() for _ in range(2))
    assert first == second
