"""Token arrays are selected once per loss, and what that relies on: padding, gates and people's own layouts stay exact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from gspo_core import GSPO, GSPO_TOKEN, Objective, Packed, Padded, policy_loss, sharded
from gspo_core.layouts import Layout
from gspo_core.objectives import GMPO, VESPO, Gated

MASK = np.array([[True, False, True], [True, True, False], [False, False, False]])
OLD = np.log(np.array([[0.5, 0.9, 0.25], [0.5, 0.5, 0.3], [0.5, 0.5, 0.5]]))
LOGP = OLD + np.array([[0.01, 5.0, -0.02], [0.1, 0.2, -7.0], [1.0, 2.0, 3.0]])
ADVANTAGE = np.array([1.0, -1.0, 2.0])


class Doubling(Padded):
    """A layout of somebody who changed one method of ours."""

    def sum(self, x: Any) -> Any:
        return 2 * super().sum(x)


@pytest.mark.parametrize("around", [lambda x: x, lambda x: sharded(x, lambda sums: sums)], ids=["itself", "sharded"])
def test_a_changed_sum_is_what_counts(around: Any) -> None:
    changed = policy_loss(GSPO, LOGP, OLD, ADVANTAGE, around(Doubling(MASK)))
    plain = policy_loss(GSPO, LOGP, OLD, ADVANTAGE, around(Padded(MASK)))
    assert np.any(plain.log_ratio != 0)
    np.testing.assert_array_equal(changed.log_ratio, 2 * plain.log_ratio)


@dataclass(frozen=True)
class Columns(Layout):
    """Sequences are columns: nothing but the abstract members."""

    mask: Any
    xp: Any = np

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mask.shape

    @property
    def num_sequences(self) -> int:
        return self.mask.shape[1]

    @property
    def valid(self) -> Any:
        return self.mask

    def lengths(self) -> Any:
        return self.mask.sum(0)

    def select(self, x: Any) -> Any:
        return np.where(self.mask, x, 0.0)

    def sum(self, x: Any) -> Any:
        return self.select(x).sum(0)

    def spread(self, x: Any) -> Any:
        return self.select(x[None, :])


@pytest.mark.parametrize("objective", [GSPO, GSPO_TOKEN, GMPO, VESPO], ids=["GSPO", "GSPO_TOKEN", "GMPO", "VESPO"])
def test_a_layout_needs_nothing_but_the_abstract_members(objective: Objective) -> None:
    layout: Layout = Columns(MASK.T.copy())
    poisoned = np.where(MASK, LOGP, np.nan)
    own = policy_loss(objective, poisoned.T.copy(), OLD.T.copy(), ADVANTAGE, layout)
    ours = policy_loss(objective, LOGP, OLD, ADVANTAGE, Padded(MASK))
    np.testing.assert_allclose(own.value, ours.value, rtol=1e-14)
    np.testing.assert_allclose(own.logp_grad.T, ours.logp_grad, rtol=1e-13)
    assert np.any(ours.logp_grad != 0)


def test_an_incomplete_layout_cannot_be_made_and_one_that_derives_from_nothing_is_refused() -> None:
    class NoSum(Columns):
        sum = Layout.sum

    with pytest.raises(TypeError, match="abstract"):
        NoSum(MASK)
    alike = type("Alike", (), {name: value for name, value in vars(Columns).items() if name not in ("__dict__", "__weakref__")})
    with pytest.raises(TypeError, match=r"^layout: .* got Alike; a layout of your own derives from gspo_core.layouts.Layout$"):
        policy_loss(GSPO, LOGP, OLD, ADVANTAGE, alike(MASK))


@dataclass(frozen=True)
class Careless:
    """A gate that leaves something in masked slots."""

    left: float

    def __call__(self, d: Any, advantage: Any, layout: Layout, per_token: bool) -> Gated:
        return Gated(layout.xp.where(layout.valid, d, self.left), advantage, layout.valid)


PACKED = Packed(np.array([0, 0, 1, -1, 1]), 2)


@pytest.mark.parametrize("left", [7.0, float("nan"), float("inf")])
@pytest.mark.parametrize("objective", [GSPO, GSPO_TOKEN], ids=["GSPO", "GSPO_TOKEN"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_what_a_gate_leaves_in_masked_slots_is_inert(objective: Objective, left: float, packed: bool) -> None:
    layout, shape = (PACKED, (5,)) if packed else (Padded(MASK), MASK.shape)
    logp = LOGP.reshape(-1)[:5] if packed else LOGP
    old, advantage = np.full(shape, -1.0), ADVANTAGE[: layout.num_sequences]
    gated = policy_loss(replace(objective, gate=Careless(left)), logp, old, advantage, layout)
    plain = policy_loss(objective, logp, old, advantage, layout)
    np.testing.assert_array_equal(gated.value, plain.value)
    np.testing.assert_array_equal(gated.logp_grad, plain.logp_grad)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_infinities_that_cancel_in_padding_are_inert_under_double_backward(poison: float) -> None:
    """PyTorch subtracts before it selects: ∞ − ∞ in a masked slot must not reach any derivative."""
    import gspo_torch  # noqa: PLC0415 (only this test wants it)

    mask, old, advantage = (torch.tensor(x) for x in (MASK, np.where(MASK, OLD, poison), ADVANTAGE))
    hessians = []
    for filling in (poison, 0.0):
        logp = torch.tensor(np.where(MASK, OLD + 1e-4, filling), requires_grad=True)
        old_logp = torch.where(mask, old, filling)
        value = gspo_torch.policy_loss(GSPO, logp, old_logp, advantage, Padded(mask)).value
        (first,) = torch.autograd.grad(value, logp, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), logp)
        hessians.append((value.detach().numpy(), first.detach().numpy(), second.numpy()))
    for poisoned, clean in zip(*hessians, strict=True):
        np.testing.assert_array_equal(poisoned, clean)
    assert np.any(hessians[0][2] != 0)
