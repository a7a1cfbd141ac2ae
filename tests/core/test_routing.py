"""RSPO's router shift is a constant shift of the old log-probs: in [log floor, 0], inert in masked slots, zero at rest."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.budgets import REL64, assert_close64, assert_same_bits, assert_within
from support.cases import Batch, batches, core_loss
from support.libraries import TORCH, Library
from support.oracles import family as oracle_family

from gspo_core import GRPO, GSPO, Packed, Padded, policy_loss
from gspo_core.objectives import GMPO
from gspo_core.routing import router_shift

FLOOR = 0.6


def routers(batch: Batch, seed: int, layers: int, experts: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of log scores [N, T, L, K], NaN in masked slots."""
    rng = np.random.default_rng(seed)
    shape = (*batch.mask.shape, layers, experts)
    old = -rng.exponential(size=shape)
    new = old + 10.0 ** rng.uniform(-3, 0.5, (*batch.mask.shape, 1, 1)) * rng.normal(size=shape)
    dead = ~batch.mask[..., None, None]
    return np.where(dead, np.nan, old), np.where(dead, np.inf, new)


def by_loops(old: np.ndarray, new: np.ndarray, mask: np.ndarray) -> list[list[float]]:
    """The formula, token by token."""
    out = [[0.0] * mask.shape[1] for _ in mask]
    for i, t in zip(*np.nonzero(mask), strict=True):
        layers = []
        for a, b in zip(new[i, t].tolist(), old[i, t].tolist(), strict=True):
            layers.append(math.fsum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a))
        gamma = math.exp(-math.fsum(layers) / len(layers))
        out[i][t] = math.log(max(gamma, FLOOR))
    return out


@given(batch=batches(), seed=st.integers(0, 2**16), layers=st.integers(1, 3), experts=st.integers(1, 3))
def test_every_token_has_the_formulas_shift(library: Library, batch: Batch, seed: int, layers: int, experts: int) -> None:
    old, new = routers(batch, seed, layers, experts)
    layout = Padded(library.array(batch.mask))
    shift = library.numpy(router_shift(library.array(old), library.array(new), layout, floor=FLOOR))
    assert_within(shift, np.reshape(by_loops(old, new, batch.mask), batch.mask.shape), REL64)
    assert (shift <= 0).all()
    assert (shift >= math.log(FLOOR)).all()
    at_rest = router_shift(library.array(old), library.array(old), layout, floor=FLOOR)
    assert not library.numpy(at_rest).any()


@given(batch=batches(edges=False), seed=st.integers(0, 2**16))
def test_the_shifted_loss_rescales_every_ratio_before_its_clip(library: Library, batch: Batch, seed: int) -> None:
    """GMPO with w̃ = γ w by the scalar judge, whose d is log w̃; the factor has no gradient of its own."""
    old, new = routers(batch, seed, 2, 2)
    gamma = np.reshape(by_loops(old, new, batch.mask), batch.mask.shape)
    shift = router_shift(library.array(old), library.array(new), Padded(library.array(batch.mask)), floor=FLOOR)
    arrays = (library.array(batch.logp), library.array(batch.old_logp) - shift, library.array(batch.advantage))
    loss = policy_loss(GMPO, *arrays, Padded(library.array(batch.mask)))
    tokens = np.repeat(batch.advantage[:, None], batch.mask.shape[1], axis=1).tolist()
    rows = (batch.logp.tolist(), (batch.old_logp - gamma).tolist(), tokens, batch.mask.tolist())
    verdict = oracle_family.judge(oracle_family.METHODS["GMPO"], *rows)
    d = np.abs(batch.clean().logp - batch.clean().old_logp)
    size = 1 + np.max(d.sum(axis=1), initial=0.0)
    assert_within(library.numpy(loss.value), verdict.value, REL64 * verdict.scale * size)
    weight = np.reshape(verdict.weight, batch.mask.shape)
    assert_within(library.numpy(loss.logp_grad), weight, REL64 * np.abs(weight) * size)


@pytest.mark.parametrize("objective", [GMPO, GSPO, GRPO], ids=["GMPO", "GSPO", "GRPO"])
@given(batch=batches())
def test_a_router_at_rest_changes_no_bit(objective: Any, batch: Batch) -> None:
    old, _ = routers(batch, 0, 2, 2)
    shift = router_shift(old, old, Padded(batch.mask), floor=FLOOR)
    a, b = (
        policy_loss(objective, batch.logp, x, batch.advantage, Padded(batch.mask))
        for x in (batch.old_logp, batch.old_logp - shift)
    )
    for one, two in zip(a[:-1], b[:-1], strict=True):
        assert_same_bits(one, two)


def test_it_matters() -> None:
    """The guard: γ = e^-0.5 lets a token inside that GMPO's bound of 0.4 would have closed."""
    mask = np.ones((1, 1), dtype=bool)
    batch = Batch(np.full((1, 1), 0.6), np.zeros((1, 1)), mask, np.ones(1), np.ones((1, 1)), 0.2, 0.2)
    old, new = np.zeros((1, 1, 1, 1)), np.full((1, 1, 1, 1), 0.5)
    shift = router_shift(old, new, Padded(mask), floor=FLOOR)
    assert core_loss(TORCH, GMPO, batch).logp_grad.item() == 0
    loss = policy_loss(GMPO, batch.logp, batch.old_logp - shift, batch.advantage, Padded(mask))
    assert_close64(loss.logp_grad, [[-math.exp(0.1)]])


def test_packed_and_float32() -> None:
    scores = np.zeros((3, 1, 1), dtype=np.float16)
    shift = router_shift(scores, scores + np.float16(0.25), Packed(np.array([0, -1, 1]), 2), floor=FLOOR)
    assert shift.dtype == np.float32
    assert shift.tolist() == [-0.25, 0.0, -0.25]
