"""The scalar oracle of the laws gives the numbers computed by hand, and those of the oracle of the papers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from support.budgets import assert_close64
from support.cases import Batch, batches
from support.draws import at_most
from support.family import MEMBERS, Member, largest
from support.inputs.hand_numbers import HAND, LOGP, MASK, OLD
from support.oracles import family as oracle_family

from gspo_core import Objective
from gspo_core.laws.kit.oracle import scalar_loss


@pytest.mark.parametrize(
    ("objective", "advantage", "value", "weight", "clipped"), [h[1:] for h in HAND], ids=[h[0] for h in HAND]
)
def test_the_oracle_gives_the_number_computed_by_hand(
    objective: Objective, advantage: list, value: float, weight: list, clipped: list
) -> None:
    tokens = [[a, a] for a in advantage]
    found = scalar_loss(objective, LOGP.tolist(), OLD.tolist(), tokens, MASK.tolist())
    assert_close64(found.value, value, 1.0)
    assert_close64(found.weight, weight, 1.0)
    assert found.clipped == clipped


@pytest.mark.parametrize("member", [m for m in MEMBERS if m.name in oracle_family.METHODS], ids=lambda member: member.name)
@at_most(15)
@given(batch=batches(edges=False, max_tokens=5))
def test_the_laws_oracle_is_the_oracle_of_the_papers(member: Member, batch: Batch) -> None:
    """Two sets of scalar loops: this one reads an objective's numbers, the other has the papers' written into it."""
    assume(largest(batch) < 49.0)
    advantage = member.advantage(batch, False)
    expected = member.judged(batch, advantage)
    wide = np.repeat(advantage[:, None], batch.mask.shape[1], axis=1)
    rows = (batch.logp.tolist(), batch.old_logp.tolist(), wide.tolist(), batch.mask.tolist())
    found = scalar_loss(member.objective, *rows)
    assert found.value == pytest.approx(expected.value, rel=1e-12, abs=1e-12 * expected.scale)
    assert found.weight == [pytest.approx(row, rel=1e-12, abs=1e-290) for row in expected.weight]


def test_the_published_formulas_have_loops_of_their_own() -> None:
    """Without them the oracle of the laws would be compared with itself."""
    assert len(oracle_family.METHODS) > 10
    assert set(oracle_family.METHODS) <= {member.name for member in MEMBERS}
