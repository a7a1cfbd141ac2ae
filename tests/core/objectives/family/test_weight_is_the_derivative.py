"""A contract of `Surrogate.exact`, not a law: it is said where the weight is the derivative of the value, and only there.

That the weight of an exact loss is its derivative is a law of the kit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from support.cases import Batch, core_loss
from support.differences import differences
from support.family import EXACT, MEMBERS, Member, by_member
from support.libraries import NUMPY


def slopes(member: Member, batch: Batch, advantage: np.ndarray) -> np.ndarray:
    """Central differences of the core's own value."""

    def value(logp: np.ndarray) -> float:
        return float(core_loss(NUMPY, member.objective, replace(batch, logp=logp), advantage).value)

    return differences(value, batch.logp, batch.mask)


@by_member
def test_exact_is_said_where_it_holds_and_only_there(member: Member) -> None:
    """At log ratios where every method is live, the differences agree with the weight if and only if the member is exact."""
    d = np.array([[1e-4, 1.5e-4], [-1e-4, -5e-5], [3.2, 1.5], [-2.0, -1.5]])
    advantage = np.array([1.0, -1.0, -1.0, 1.0])
    uneven = advantage[:, None] * np.array([1.0, 0.5])
    batch = Batch(d, np.zeros((4, 2)), np.ones((4, 2), dtype=bool), advantage, uneven, 0.2, 0.2)
    given_ = member.advantage(batch, member.per_token)
    weight, expected = core_loss(NUMPY, member.objective, batch, given_).logp_grad, slopes(member, batch, given_)
    agree = bool(np.abs(weight - expected).max() <= 1e-8 * np.abs(weight).max())
    assert agree == member.exact


def test_both_kinds_are_there() -> None:
    assert {m.name for m in MEMBERS if not m.exact} >= {"GSPO_TOKEN", "CISPO", "ASPO", "VESPO"}
    assert {m.name for m in EXACT} >= {"GSPO", "GRPO", "GMPO", "SAPO"}
