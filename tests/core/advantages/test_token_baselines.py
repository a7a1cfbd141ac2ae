"""Optimal token baselines by loops over groups and places, in every library and layout; Σπ² from the head's own pass."""

from __future__ import annotations

import math
from typing import Any

import gspo_jax
import gspo_torch
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.libraries import Library

from gspo_core import Packed, Padded, policy_loss
from gspo_core.advantages import optimal_token_advantages
from gspo_core.objectives import GSPO_TOKEN

responses = st.lists(
    st.tuples(
        st.lists(st.booleans(), min_size=4, max_size=4),  # the mask
        st.sampled_from([0.0, 1.0, 0.5, -2.0]),  # the reward
        st.sampled_from([3, -1, 8]),  # the prompt
    ),
    min_size=1,
    max_size=6,
)
Drawn = list[tuple[list[bool], float, int]]


def numbers(drawn: Drawn, seed: int) -> tuple[np.ndarray, ...]:
    """(mask, rewards, ids, logp, Σπ²): a token's own π² is part of Σπ²."""
    rng = np.random.default_rng(seed)
    mask = np.array([m for m, _, _ in drawn])
    pi = rng.uniform(0.01, 0.99, mask.shape)
    squares = pi**2 + rng.uniform(0.0, 1.0, mask.shape) * (1 - pi) ** 2
    return mask, np.array([r for _, r, _ in drawn]), np.array([g for _, _, g in drawn]), np.log(pi), squares


def by_hand(
    mask: np.ndarray, rewards: np.ndarray, ids: np.ndarray, logp: np.ndarray, squares: np.ndarray, keep: bool
) -> np.ndarray:
    """Place by place: who has a t-th token, what it has added up, and the weighted mean of their rewards."""
    out, slots = np.zeros(mask.shape), [np.flatnonzero(row) for row in mask]
    for group in set(ids.tolist()):
        members = np.flatnonzero(ids == group)
        for t in range(mask.shape[1]):
            there = [i for i in members if len(slots[i]) > t]
            energy = {i: math.fsum(1 - 2 * math.exp(logp[i, k]) + squares[i, k] for k in slots[i][: t + 1]) for i in there}
            total = math.fsum(energy.values())
            for i in there:
                baseline = math.fsum(rewards[j] * energy[j] for j in there) / total
                out[i, slots[i][t]] = rewards[i] if len(there) == 1 and keep else rewards[i] - baseline
    return out


@given(drawn=responses, seed=st.integers(0, 99), keep=st.booleans())
def test_every_place_has_its_own_baseline_padded_and_packed(library: Library, drawn: Drawn, seed: int, keep: bool) -> None:
    """Holes count for nothing, and packed rows may stand in any order, with slots of nobody between."""
    mask, rewards, ids, logp, squares = numbers(drawn, seed)
    wanted = by_hand(mask, rewards, ids, logp, squares, keep)
    dirty = [np.where(mask, x, np.nan) for x in (logp, squares)]
    heads = [library.array(x) for x in (rewards, ids)]
    tokens = [library.array(x) for x in dirty]
    padded = optimal_token_advantages(*heads, *tokens, Padded(library.array(mask)), keep_alone=keep)
    np.testing.assert_allclose(library.numpy(padded.values), wanted, rtol=1e-11, atol=1e-13)
    rows = np.repeat(np.arange(len(mask)), mask.shape[1])
    order = np.argsort(np.random.default_rng(seed).permutation(len(mask))[rows], kind="stable")
    layout = Packed(library.array(np.where(mask.reshape(-1), rows, -1)[order]), len(mask))
    flat = [library.array(x.reshape(-1)[order]) for x in dirty]
    packed = optimal_token_advantages(*heads, *flat, layout, keep_alone=keep)
    np.testing.assert_allclose(library.numpy(packed.values), wanted.reshape(-1)[order], rtol=1e-11, atol=1e-13)


@given(drawn=responses, seed=st.integers(0, 99))
def test_equal_rewards_give_exactly_nothing(drawn: Drawn, seed: int) -> None:
    mask, _, _, logp, squares = numbers(drawn, seed)
    equal, ids = np.full(len(mask), 0.7), np.zeros(len(mask), dtype=int)
    assert not optimal_token_advantages(equal, ids, logp, squares, Padded(mask), keep_alone=False).values.any()


def test_a_policy_that_is_certain_has_no_baseline() -> None:
    """All weights are 0, and so is every gradient."""
    layout, ids = Padded(np.ones((2, 1), dtype=bool)), np.zeros(2, dtype=int)
    found = optimal_token_advantages(np.array([1.0, 0.0]), ids, np.zeros((2, 1)), np.ones((2, 1)), layout)
    assert np.isfinite(found.values).all()


def test_float32_stays_float32(library: Library) -> None:
    tokens = [library.array(np.full((2, 2), x, dtype=np.float32)) for x in (-0.7, 0.5)]
    heads = [library.array(np.array([1.0, 0.0], dtype=np.float32)), library.array(np.array([1, 1]))]
    found = optimal_token_advantages(*heads, *tokens, Padded(library.array(np.array([[True, True], [True, False]]))))
    assert library.numpy(found.values).dtype == np.float32


HIDDEN = np.random.default_rng(0).normal(size=(3, 4, 8)).astype(np.float32)
HEAD, BIAS = (np.random.default_rng(1).normal(size=shape).astype(np.float32) for shape in ((11, 8), (11,)))
TOKENS = np.random.default_rng(2).integers(0, 11, (3, 4))
OPTIONS: list[dict[str, Any]] = [{"temperature": 1.0}, {"temperature": 0.7, "soft_cap": 3.0}]
BACKENDS = [
    pytest.param(gspo_torch, torch.tensor, id="torch"),
    pytest.param(gspo_jax, jnp.asarray, id="jax", marks=pytest.mark.slow),
]


def sum_of_squares(options: dict[str, Any]) -> np.ndarray:
    """Σ_v π_v² from the full softmax, in float64."""
    z = HIDDEN.astype(np.float64) @ HEAD.T.astype(np.float64) + BIAS
    if "soft_cap" in options:
        z = options["soft_cap"] * np.tanh(z / options["soft_cap"])
    pi = np.exp(z / options["temperature"])
    return np.asarray((pi**2).sum(axis=-1) / pi.sum(axis=-1) ** 2)


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "temperature and cap"])
@pytest.mark.parametrize(("backend", "array"), BACKENDS)
def test_the_sum_of_squares_comes_from_the_pass_that_computes_log_probs(
    backend: Any, array: Any, options: dict[str, Any]
) -> None:
    """And on to a loss. Another way to it: log π at half the temperature is 2 z − log Σ exp 2z, 2 log π less that log Σ π²."""
    head = (array(HIDDEN), array(HEAD), array(TOKENS))
    scores = backend.token_scores(*head, bias=array(BIAS), sum_pi_squared=True, **options)
    logp, squares = np.asarray(scores.logp), np.asarray(scores.sum_pi_squared)
    np.testing.assert_allclose(squares, sum_of_squares(options), rtol=5e-6)
    halved = {**options, "temperature": options["temperature"] / 2}
    half_logp = np.asarray(backend.token_logp(*head, bias=array(BIAS), **halved))
    np.testing.assert_allclose(squares, np.exp(2.0 * logp - half_logp), rtol=5e-6)
    layout, rewards, ids = Padded(np.ones((3, 4), dtype=bool)), np.array([1.0, 0.0, 0.5]), np.array([5, 5, 5])
    advantage = optimal_token_advantages(rewards, ids, logp, squares, layout)
    loss = policy_loss(GSPO_TOKEN, logp, logp, advantage, layout)
    np.testing.assert_allclose(loss.logp_grad, -advantage.values / 12, rtol=1e-6)
