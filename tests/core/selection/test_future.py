"""FIPO's factors are discounted sums over a response's own later tokens, whatever the layout; FIPO is DAPO with them."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cases import Batch, batches
from support.draws import at_most
from support.libraries import JAX, Library

from gspo_core import Packed, Padded, PerToken, Turns, policy_loss, sharded
from gspo_core.layouts import Restricted
from gspo_core.objectives import DAPO
from gspo_core.selection import future_kl_advantages

Numbers = tuple[float, float, float, float]
numbers = st.sampled_from([(32.0, 1.0, 1.2, 4.0), (1.0, 0.8, 1.2, 3.0), (0.25, 0.5, 9.0, math.inf)])


def by_hand(d: list[float], a: list[float], half_life: float, low: float, high: float, safety: float) -> list[float]:
    """One response: the sum written out at every token."""
    out = []
    for t in range(len(d)):
        future = math.fsum(2.0 ** (-(k - t) / half_life) * d[k] for k in range(t, len(d)))
        factor = min(max(math.exp(min(future, 50.0)), low), high)
        if a[t] < 0 and math.exp(d[t]) > safety:
            factor = min(max(math.exp(min(future, 50.0)), 0.8), 1.0)
        out.append(a[t] * factor)
    return out


def judged(batch: Batch, options: Numbers, per_token: bool) -> np.ndarray:
    """All responses; 0 in masked slots."""
    out = np.zeros(batch.mask.shape)
    for i, row in enumerate(batch.mask):
        where = np.flatnonzero(row)
        a = batch.token_advantage[i, where] if per_token else np.full(len(where), batch.advantage[i])
        out[i, where] = by_hand((batch.logp[i, where] - batch.old_logp[i, where]).tolist(), a.tolist(), *options)
    return out


def given_numbers(options: Numbers) -> dict[str, float]:
    """As keywords."""
    return dict(zip(("half_life", "low", "high", "safety"), options, strict=True))


@at_most(30)
@given(batch=batches(edges=False), options=numbers, per_token=st.booleans(), seed=st.integers(0, 99))
def test_every_token_has_the_discounted_sum_of_its_own_and_later_tokens_padded_and_packed(
    library: Library, batch: Batch, options: Numbers, per_token: bool, seed: int
) -> None:
    """Holes and padding count for nothing; packed rows may stand in any order, with slots of nobody between."""
    advantage = batch.token_advantage if per_token else batch.advantage
    wanted, size = judged(batch, options, per_token), batch.mask.size
    pair = [library.array(x) for x in (batch.logp, batch.old_logp)]
    padded = future_kl_advantages(*pair, library.array(advantage), Padded(library.array(batch.mask)), **given_numbers(options))
    np.testing.assert_allclose(library.numpy(padded.values), wanted, rtol=1e-10, atol=1e-300)
    rows, _ = np.divmod(np.arange(size), max(1, batch.mask.shape[1]))
    spots = np.random.default_rng(seed).permutation(len(batch.mask))
    order = np.argsort(spots[rows], kind="stable") if size else np.arange(0)
    ids = np.where(batch.mask.reshape(-1), rows, -1)[order]
    packed = future_kl_advantages(
        *(library.array(x.reshape(-1)[order]) for x in (batch.logp, batch.old_logp)),
        PerToken(library.array(advantage.reshape(-1)[order])) if per_token else library.array(advantage),
        Packed(library.array(ids), len(batch.mask)),
        **given_numbers(options),
    )
    np.testing.assert_allclose(library.numpy(packed.values), wanted.reshape(-1)[order], rtol=1e-10, atol=1e-300)


@given(batch=batches(edges=False, max_tokens=5))
def test_fipo_is_dapo_with_these_advantages(batch: Batch) -> None:
    """Value and weight token by token: f held constant, the clip as DAPO's."""
    layout, pair = Padded(batch.mask), (batch.logp, batch.old_logp)
    loss = policy_loss(DAPO, *pair, future_kl_advantages(*pair, batch.advantage, layout), layout)
    at_tokens, n = judged(batch, (32.0, 1.0, 1.2, 4.0), False), max(1, int(batch.mask.sum()))
    weight, values = np.zeros(batch.mask.shape), []
    for i, t in np.argwhere(batch.mask):
        w, a = math.exp(batch.logp[i, t] - batch.old_logp[i, t]), at_tokens[i, t]
        values.append(-min(w * a, min(max(w, 0.8), 1.28) * a) / n)
        shut = (a > 0 and w > 1.28) or (a < 0 and w < 0.8)
        weight[i, t] = 0.0 if shut else -w * a / n
    np.testing.assert_allclose(loss.logp_grad, weight, rtol=1e-10, atol=1e-300)
    size = 1e-11 * (1 + math.fsum(map(abs, values)))
    assert math.isclose(float(loss.value), math.fsum(values), rel_tol=1e-10, abs_tol=size)


def test_without_a_difference_it_changes_no_bit_of_the_advantages(library: Library) -> None:
    x, a = library.array(np.array([[-1.0, -2.0, -3.0]])), np.array([0.3])
    found = future_kl_advantages(x, x, library.array(a), Padded(library.array(np.ones((1, 3), dtype=bool))))
    assert library.numpy(found.values).tolist() == [[0.3, 0.3, 0.3]]


def test_a_long_response_is_summed_whole() -> None:
    """1000 tokens of one log ratio: γ^k sums to (1 − γ^n)/(1 − γ) at n tokens before the end."""
    new, old, gamma = np.full(1001, 1e-3), np.zeros(1001), 2.0 ** (-1 / 32)
    layout = Packed(np.array([0] * 1000 + [1]), 2)
    values = future_kl_advantages(new, old, np.ones(2), layout).values
    wanted = [math.exp(1e-3 * (1 - gamma ** (1000 - t)) / (1 - gamma)) for t in range(1000)]
    np.testing.assert_allclose(values[:1000], wanted, rtol=1e-12)
    assert math.isclose(values[1000], math.exp(1e-3), rel_tol=1e-14)


def test_excluded_tokens_bound_the_factor_and_warn_of_nothing(library: Library) -> None:
    new, old = np.array([[0.0, -np.inf], [0.0, 60.0]]), np.zeros((2, 2))
    arrays = [library.array(x) for x in (new, old, np.array([1.0, -1.0]))]
    found = future_kl_advantages(*arrays, Padded(library.array(np.ones((2, 2), dtype=bool))), low=0.5)
    np.testing.assert_allclose(library.numpy(found.values), [[0.5, 0.5], [-1.2, -1.0]], rtol=1e-15)


def test_a_narrowed_layout_has_the_tokens_that_are_left_and_turns_change_nothing() -> None:
    new, old, mask = np.array([[0.1, 0.05, 0.02]]), np.zeros((1, 3)), np.ones((1, 3), dtype=bool)
    kept = np.array([[True, False, True]])
    narrowed = future_kl_advantages(new, old, np.ones(1), Restricted(Padded(mask), kept), half_life=1.0).values
    assert narrowed.tolist() == [[math.exp(0.1 + 0.02 / 2), 0.0, math.exp(0.02)]]
    turns = future_kl_advantages(new, old, np.ones(1), Turns(Padded(mask), np.array([[0, 1, 1]]), 2)).values
    assert turns.tolist() == future_kl_advantages(new, old, np.ones(1), Padded(mask)).values.tolist()


def test_responses_spread_over_ranks_are_refused() -> None:
    zeros = np.zeros((1, 2))
    with pytest.raises(TypeError, match=r"^layout: expected one that holds whole responses, got one whose"):
        future_kl_advantages(zeros, zeros, np.ones(1), sharded(Padded(zeros == 0), lambda x: x))


@pytest.mark.slow
def test_jax_computes_the_same_under_jit() -> None:
    rng = np.random.default_rng(0)
    new, old, mask, a = rng.normal(size=(3, 5)), rng.normal(size=(3, 5)), rng.random((3, 5)) < 0.7, rng.normal(size=3)
    wanted = future_kl_advantages(new, old, a, Padded(mask)).values
    with JAX.precision(np.float64):
        found = jax.jit(lambda x, y, m, b: future_kl_advantages(x, y, b, Padded(m)).values)(new, old, mask, a)
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=1e-12, atol=1e-300)
