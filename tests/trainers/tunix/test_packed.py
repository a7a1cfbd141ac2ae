"""Packed sequences: a response is a segment of a pack, and its loss is that of the same response in a row of its own."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest
from gspo_jax.trainers.tunix import LOGGED
from hypothesis import given
from hypothesis import strategies as st
from support.trainers.tunix_batches import Rows, config, packed, padded, registered, rows, saying_nothing, value_and_grad

from gspo_core import GSPO, GSPO_TOKEN, Objective
from gspo_core.objectives import DAPO, PRESETS

TWO = ((0, 2), (1, 3))
"""Two packs of two responses each, in another order than the rows."""


def pair() -> Rows:
    """Two responses of two tokens with s = 1.051 and 0.980 and opposite advantages."""
    mask, old = np.ones((2, 2), dtype=bool), np.full((2, 2), -1.0, dtype=np.float32)
    logp = old + np.array([[0.05, 0.05], [-0.02, -0.02]], dtype=np.float32)
    return Rows(logp, old, old, np.array([1.0, -1.0], dtype=np.float32), mask)


def test_two_responses_in_one_pack() -> None:
    """The paper's loss of the pair is −(1.051 · 1 + 0.980 · −1)/2 = −0.035536; with the clip at 0.03, −0.024901."""
    name = registered(GSPO.with_clip(0.03, 0.03))
    pack = packed(pair(), ((0, 1),), 8)
    value, _, gradient = value_and_grad(name, pack.logp, pack.example, saying_nothing())
    bounded = -(min(math.exp(0.05), 1.03) - max(math.exp(-0.02), 0.0)) / 2
    assert bounded == pytest.approx(-0.024901, abs=1e-6)
    assert abs(value - bounded) <= 1e-6
    alone, _, of_rows = value_and_grad(name, pair().logp, padded(pair()), saying_nothing())
    assert abs(value - alone) <= 1e-7
    assert np.abs(gradient[pack.mask] - of_rows.reshape(-1)).max() <= 1e-7


def test_tunix_mixes_them() -> None:
    """The fault that this mends, in Tunix 0.1.7: one ratio for the pack, so that opposite advantages cancel."""
    pack = packed(pair(), ((0, 1),), 8)
    value, _, _ = value_and_grad("grpo", pack.logp, pack.example, config(beta=0.0, loss_algo="gspo-token", epsilon=0.03))
    assert abs(value) <= 1e-7


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "DR_GRPO"])
@given(seed=st.integers(0, 1000))
def test_any_preset_on_packs_is_that_on_rows(preset: str, seed: int) -> None:
    """Two packs of two responses, of which one is empty: values, gradients and a KL term."""
    batch, options = rows(seed), saying_nothing(beta=0.2, kl_loss_mode="mse_kl")
    pack = packed(batch, TWO, 12, reference=True)
    value, _, gradient = value_and_grad(f"gspo_core_{preset.lower()}", pack.logp, pack.example, options)
    example = padded(batch, ref_per_token_logps=jnp.asarray(batch.reference))
    alone, _, of_rows = value_and_grad(f"gspo_core_{preset.lower()}", batch.logp, example, options)
    assert abs(value - alone) <= 2e-6 * (1 + abs(alone))
    order = np.concatenate([of_rows[i][batch.mask[i]] for i in (0, 2, 1, 3)])
    assert np.abs(gradient[pack.mask] - order).max() <= 2e-6 * (1 + abs(alone))
    assert not gradient[~pack.mask].any()


@pytest.mark.parametrize("objective", [GSPO, GSPO_TOKEN, DAPO], ids=str)
def test_what_is_logged_of_packs_is_that_of_rows(objective: Objective) -> None:
    """Every number, Tunix's and ours."""
    batch, options = rows(1), saying_nothing()
    pack = packed(batch, TWO, 12)
    of_packs = value_and_grad(registered(objective), pack.logp, pack.example, options, log=True)[1]
    of_rows = value_and_grad(registered(objective), batch.logp, padded(batch), options, log=True)[1]
    assert of_rows["pg_clipfrac"] > 0.1
    for name in set(of_rows) - set(LOGGED) | {"kl", "pg_clipfrac", "entropy"}:
        assert abs(of_packs[name] - of_rows[name]) <= 2e-6, name
    for name in (name for name in LOGGED if name.startswith("gspo/")):
        assert LOGGED[name]([of_packs[name]]) == pytest.approx(LOGGED[name]([of_rows[name]]), rel=1e-5), name


def test_token_advantages_of_a_packed_response_want_a_ratio_of_tokens() -> None:
    """GSPO-token takes them; GSPO has one advantage per response, and says NaN rather than choose one."""
    pack = packed(rows(1), TWO, 12)
    slots = jnp.broadcast_to(jnp.arange(12.0), pack.mask.shape)
    example = pack.example.replace(advantages=slots)
    assert np.isfinite(value_and_grad("gspo_core_gspo_token", pack.logp, example, saying_nothing())[0])
    assert np.isnan(value_and_grad("gspo_core_gspo", pack.logp, example, saying_nothing())[0])
