"""Which tokens learn: M2PO, 80/20, Clip-Cov and KL-Cov against sorted Python lists, and as losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cases import Batch, batches
from support.libraries import Library

from gspo_core import Objective, Packed, Padded, Token, TokenMean, policy_loss
from gspo_core.kl import KAbs, kl_penalty
from gspo_core.layouts import Restricted
from gspo_core.objectives import DAPO, Unclipped
from gspo_core.selection import kept_advantages, token_covariance, top_share, within_second_moment

SHARES = [2e-4, 0.125, 0.25, 0.5, 1.0]
Slots = list[tuple[int, int]]


def slots(mask: np.ndarray) -> Slots:
    """Where tokens stand."""
    return [(int(i), int(t)) for i, t in np.argwhere(mask)]


def as_mask(chosen: Slots, shape: tuple[int, ...]) -> np.ndarray:
    """True at some slots."""
    out = np.zeros(shape, dtype=bool)
    for slot in chosen:
        out[slot] = True
    return out


def largest(values: np.ndarray, mask: np.ndarray, share: float) -> np.ndarray:
    """The first ⌊share · n⌋ tokens, at least one, of a list sorted by value."""
    ordered = sorted(slots(mask), key=lambda slot: -values[slot])
    return as_mask(ordered[: max(1, int(share * len(ordered)))], mask.shape)


@given(batch=batches(max_tokens=5), share=st.sampled_from(SHARES), ties=st.booleans())
def test_the_top_share_is_that_of_a_sorted_list(library: Library, batch: Batch, share: float, ties: bool) -> None:
    """Of equal values the first; whatever stands in masked slots."""
    values = np.round(batch.token_advantage) if ties else batch.token_advantage
    found = top_share(library.array(values), Padded(library.array(batch.mask)), share)
    assert np.array_equal(library.numpy(found), largest(values, batch.mask, share))


@given(batch=batches(max_tokens=5), share=st.sampled_from([0.2, 0.5]))
def test_80_20_keeps_trls_tokens_but_at_most_one(batch: Batch, share: float) -> None:
    """TRL keeps entropies at or above their quantile; without equal ones that is the same or one token more."""
    found = top_share(batch.token_advantage, Padded(batch.mask), share)
    values = batch.token_advantage[batch.mask]
    if values.size and len(set(values.tolist())) == values.size:
        theirs = batch.mask & (np.where(batch.mask, batch.token_advantage, -np.inf) >= np.quantile(values, 1 - share))
        assert (found <= theirs).all()
        assert theirs.sum() - found.sum() in (0, 1)


def test_a_value_that_is_not_a_number_is_the_last_to_be_taken(library: Library) -> None:
    values, layout = library.array(np.array([[np.nan, -np.inf, -1.0, np.inf]])), Padded(library.array(np.ones((1, 4), bool)))
    assert library.numpy(top_share(values, layout, 0.5)).tolist() == [[False, False, True, True]]


def second_moment(d: np.ndarray, mask: np.ndarray, threshold: float) -> np.ndarray:
    """Take the furthest token away until the mean is below the threshold or one is left."""
    left = sorted(slots(mask), key=lambda slot: abs(d[slot]))
    while len(left) > 1 and not math.fsum(d[slot] ** 2 for slot in left) / len(left) < threshold:
        left.pop()
    return as_mask(left, mask.shape)


@given(batch=batches(edges=False, max_tokens=5), threshold=st.sampled_from([1e-9, 0.01, 0.3, 50.0]))
def test_m2po_takes_the_furthest_tokens_away_until_the_mean_square_is_small(
    library: Library, batch: Batch, threshold: float
) -> None:
    clean = batch.clean()
    arrays = [library.array(x) for x in (batch.logp, batch.old_logp)]
    found = library.numpy(within_second_moment(*arrays, Padded(library.array(batch.mask)), threshold))
    wanted = second_moment(clean.logp - clean.old_logp, batch.mask, threshold)
    assert found.sum() == wanted.sum()
    kept, d = np.abs((clean.logp - clean.old_logp)[found]), np.abs((clean.logp - clean.old_logp)[wanted])
    np.testing.assert_array_equal(np.sort(kept), np.sort(d))  # of tokens equally far either may stay


def test_infinite_and_absent_log_ratios_go_first_and_masked_slots_count_for_nothing(library: Library) -> None:
    new = np.array([[0.1, -np.inf, np.nan, 0.2, 1e30, 0.0]], dtype=np.float32)
    old = np.array([[0.0, -np.inf, 0.0, 0.0, 0.0, np.nan]], dtype=np.float32)
    layout = Padded(library.array(np.array([[True, True, True, True, True, False]])))
    found = within_second_moment(library.array(new), library.array(old), layout, 0.03)
    assert library.numpy(found).tolist() == [[True, False, False, True, False, False]]


def test_packed_rows_are_chosen_from_alike(library: Library) -> None:
    layout = Packed(library.array(np.array([1, -1, 0, 1])), 2)
    values, zeros = library.array(np.array([0.1, 9.0, 0.3, 0.2])), library.array(np.zeros(4))
    assert library.numpy(top_share(values, layout, 0.4)).tolist() == [False, False, True, False]
    assert library.numpy(within_second_moment(values, zeros, layout, 0.03)).tolist() == [True, False, False, True]


def covariance(batch: Batch) -> np.ndarray:
    """Two means by fsum, and a product per token."""
    where, out = slots(batch.mask), np.zeros(batch.mask.shape)
    n = max(1, len(where))
    mean_a = math.fsum(batch.advantage[i] for i, _ in where) / n
    mean_l = math.fsum(batch.logp[slot] for slot in where) / n
    for i, t in where:
        out[i, t] = (batch.advantage[i] - mean_a) * (batch.logp[i, t] - mean_l)
    return out


@given(batch=batches(edges=False, max_tokens=5))
def test_the_covariance_is_centred_over_the_tokens(library: Library, batch: Batch) -> None:
    found = token_covariance(*(library.array(x) for x in (batch.logp, batch.advantage)), Padded(library.array(batch.mask)))
    wanted = covariance(batch)
    np.testing.assert_allclose(library.numpy(found), wanted, rtol=1e-9, atol=1e-10 * (1 + np.abs(wanted).max(initial=0.0)))


# ---- as losses: who divides by what


@given(batch=batches(edges=False, max_tokens=5))
def test_without_an_advantage_a_token_stays_in_the_denominator_and_restricted_it_is_gone(batch: Batch) -> None:
    """TRL's and verl's losses divide by all tokens; AReaL's M2PO by those that are left. The weights differ by that factor."""
    layout, pair = Padded(batch.mask), (batch.logp, batch.old_logp)
    kept = top_share(np.where(batch.mask, -batch.logp, 0.0), layout, 0.5)
    zero = policy_loss(DAPO, *pair, kept_advantages(batch.advantage, kept, layout), layout)
    gone = policy_loss(DAPO, *pair, batch.advantage, Restricted(layout, kept))
    whole = policy_loss(DAPO, *pair, batch.advantage, layout)
    tokens, left = max(1, int(batch.mask.sum())), max(1, int(kept.sum()))
    assert (float(zero.denominator), float(gone.denominator)) == (tokens, left)
    np.testing.assert_allclose(zero.logp_grad, np.where(kept, whole.logp_grad, 0.0), rtol=1e-14, atol=0)
    np.testing.assert_allclose(gone.logp_grad * left, zero.logp_grad * tokens, rtol=1e-12, atol=1e-300)


@given(batch=batches(edges=False, max_tokens=5), beta=st.sampled_from([0.5, 1.0]))
def test_kl_cov_adds_the_size_of_the_log_ratio_where_the_covariance_is_largest(batch: Batch, beta: float) -> None:
    """−w A + β |d| on the chosen tokens, −w A elsewhere, over all tokens."""
    clean, layout, n = batch.clean(), Padded(batch.mask), max(1, int(batch.mask.sum()))
    chosen = top_share(token_covariance(clean.logp, clean.advantage, layout), layout, 0.25)
    assert np.array_equal(chosen, largest(token_covariance(clean.logp, clean.advantage, layout), batch.mask, 0.25))
    pair = (clean.logp, clean.old_logp)
    policy = policy_loss(Objective(Token(), Unclipped(), TokenMean()), *pair, clean.advantage, layout)
    term = kl_penalty(KAbs(), *pair, Restricted(layout, chosen), reduction=TokenMean(), denominator=float(n))
    weight, values = np.zeros(batch.mask.shape), []
    for i, t in slots(batch.mask):
        d, a = float(clean.logp[i, t] - clean.old_logp[i, t]), float(clean.advantage[i])
        pull = beta * chosen[i, t]
        weight[i, t] = (-math.exp(d) * a + pull * ((d > 0) - (d < 0))) / n
        values.append((-math.exp(d) * a + pull * abs(d)) / n)
    np.testing.assert_allclose(policy.logp_grad + beta * term.logp_grad, weight, rtol=1e-11, atol=1e-13)
    size = math.fsum(map(abs, values))
    assert math.isclose(float(policy.value + beta * term.value), math.fsum(values), rel_tol=1e-11, abs_tol=1e-12 * (1 + size))


@pytest.mark.parametrize("seed", range(3))
def test_clip_cov_takes_its_number_of_tokens_at_random_from_those_inside_the_bounds(seed: int) -> None:
    """verl's: at most ⌊share · n⌋ tokens, at least one, with a covariance between the bounds that the clip has not stopped."""
    rng = np.random.default_rng(seed)
    logp, old, advantage = rng.normal(size=(6, 40)), rng.normal(size=(6, 40)), rng.normal(size=6)
    layout = Padded(np.ones(logp.shape, dtype=bool))
    cov = token_covariance(logp, advantage, layout)
    candidates = (cov > 0.1) & (cov < 3.0) & ~policy_loss(DAPO, logp, old, advantage, layout).clipped
    dropped = candidates & top_share(np.where(candidates, rng.random(logp.shape), -1.0), layout, 0.025)
    assert candidates.sum() > 12
    assert dropped.sum() == 6
    loss = policy_loss(DAPO, logp, old, kept_advantages(advantage, ~dropped, layout), layout)
    assert not loss.logp_grad[dropped].any()
    assert float(loss.denominator) == 240
