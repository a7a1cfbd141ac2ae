"""Our own objectives keep every law that they claim, on every library, and the laws' oracle is the papers'."""

from __future__ import annotations

import numpy as np
import pytest
from cases import Batch, batches
from family import MEMBERS, Member, by_member, largest
from hypothesis import assume, given, settings

from gspo_core import GSPO, GSPO_TOKEN, Objective, laws
from gspo_core.laws import oracle


@by_member
def test_every_preset_keeps_its_laws(member: Member) -> None:
    report = laws.check(member.objective, like=member.objective, examples=15)
    assert report.ok, str(report)
    assert len(report.kept) > 20


@pytest.mark.parametrize("objective", [GSPO, GSPO_TOKEN], ids=["GSPO", "GSPO_TOKEN"])
def test_and_in_torch(objective: Objective) -> None:
    report = laws.check(objective, like=objective, framework=laws.TORCH, examples=10)
    assert report.ok, str(report)
    assert report.framework == "torch"


@by_member
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
    assert len(MEMBERS) == 16


def test_equal_seeds_equal_reports() -> None:
    first, second = (laws.check(laws.MUTANTS[0].loss, laws.MUTANTS[0].like, seed=3, examples=20).json() for _ in range(2))
    assert first == second
