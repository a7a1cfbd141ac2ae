"""The weight of every exact preset is the derivative of its value; the others say that theirs is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from budgets import assert_within
from cases import Batch, batches, core_loss
from family import EXACT, MEMBERS, Member, by_member, largest
from hypothesis import assume, given
from libraries import NUMPY
from test_weight_is_the_derivative import STEP, differences


def slopes(member: Member, batch: Batch, advantage: np.ndarray) -> np.ndarray:
    """Central differences of the core's own value."""

    def value(logp: np.ndarray) -> float:
        return float(core_loss(NUMPY, member.objective, replace(batch, logp=logp), advantage).value)

    return differences(value, batch.logp, batch.mask)


@pytest.mark.parametrize("member", EXACT, ids=lambda member: member.name)
@given(batch=batches(edges=False, max_tokens=5))
def test_weight_is_the_central_difference_of_the_value(member: Member, batch: Batch) -> None:
    assume(batch.mask.any())
    assume(largest(batch) < 49.0)
    assume(member.is_clear_of_kinks(batch, batch.advantage, 2.5 * STEP))
    # 1e-9 of the value's terms: rounding over the step. SAPO's fifth derivative, times h⁴/30, is below 1e-10 of them too.
    allowed = 1e-9 * member.judged(batch, batch.advantage).scale + 1e-300
    assert_within(core_loss(NUMPY, member.objective, batch).logp_grad, slopes(member, batch, batch.advantage), allowed)


@by_member
def test_exact_is_said_where_it_holds_and_only_there(member: Member) -> None:
    """At log ratios where every method is live, the differences agree with the weight if and only if the member is exact."""
    d = np.array([[1e-4, 1.5e-4], [-1e-4, -5e-5], [2.0, 1.5], [-2.0, -1.5]])
    advantage = np.array([1.0, -1.0, -1.0, 1.0])
    uneven = advantage[:, None] * np.array([1.0, 0.5])
    batch = Batch(d, np.zeros((4, 2)), np.ones((4, 2), dtype=bool), advantage, uneven, 0.2, 0.2)
    given_ = member.advantage(batch, member.method.per_token)
    weight, expected = core_loss(NUMPY, member.objective, batch, given_).logp_grad, slopes(member, batch, given_)
    agree = bool(np.abs(weight - expected).max() <= 1e-8 * np.abs(weight).max())
    assert agree == member.exact


def test_both_kinds_are_there() -> None:
    assert {m.name for m in MEMBERS if not m.exact} == {"GSPO_TOKEN", "CISPO", "ASPO", "VESPO"}
    assert len(EXACT) == len(MEMBERS) - 4
