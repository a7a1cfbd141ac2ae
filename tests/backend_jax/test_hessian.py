"""Second derivatives of gspo_jax.policy_loss are those of gspo_torch's double backward, stop-gradients included."""

from __future__ import annotations

import functools
from typing import Any

import gspo_torch
import jax
import numpy as np
import pytest
import torch
from support.budgets import assert_within
from support.family import MEMBERS, Member, by_member
from support.jax_programs.losses import BATCH, by_layout, inputs, value_of
from support.libraries import TORCH

from gspo_core import Padded

pytestmark = pytest.mark.slow

MEMBERS_BY_NAME = {member.name: member for member in MEMBERS}


@functools.cache
def torch_hessian(member: Member) -> np.ndarray:
    """By reverse mode twice."""
    rest = [TORCH.array(a) for a in (BATCH.old_logp, BATCH.advantage)]
    layout = Padded(TORCH.array(BATCH.mask))

    def value(logp: torch.Tensor) -> torch.Tensor:
        return gspo_torch.policy_loss(member.objective, logp, *rest, layout).value

    found: np.ndarray = torch.func.jacrev(torch.func.jacrev(value))(TORCH.array(BATCH.logp)).numpy()
    return found


@functools.cache
def hessians(layout: str) -> dict[str, Any]:
    """Of every member, by one program: compiling is what takes the time."""
    with jax.enable_x64(True):
        x = inputs(layout)
        compiled = jax.jit(lambda logp: {member.name: jax.hessian(value_of(member, x))(logp) for member in MEMBERS})
        return jax.tree.map(np.asarray, compiled(x.logp))


@by_layout
@by_member
def test_the_hessian_is_torchs(member: Member, layout: str) -> None:
    """jax.hessian is forward over reverse."""
    ours = hessians(layout)[member.name]
    size = BATCH.mask.size
    theirs = torch_hessian(member).reshape(size, size)
    assert_within(ours.reshape(size, size), theirs, 1e-12 * max(1e-3, float(np.abs(theirs).max())))


def test_a_hessian_is_not_always_zero() -> None:
    found = {name: np.abs(torch_hessian(member)).max() for name, member in MEMBERS_BY_NAME.items()}
    assert all(found[name] > 1e-3 for name in ("GSPO", "GSPO_TOKEN", "GRPO"))


def test_reverse_over_reverse_is_forward_over_reverse() -> None:
    member: Any = MEMBERS_BY_NAME["GSPO_TOKEN"]
    with jax.enable_x64(True):
        x = inputs()
        f = value_of(member, x)
        twice, mixed = (np.asarray(jax.jit(h)(x.logp)) for h in (jax.jacrev(jax.jacrev(f)), jax.hessian(f)))
    assert_within(twice, mixed, 1e-15)
