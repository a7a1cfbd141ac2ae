"""A cap on the log ratio: the estimate at a log-prob within the cap, no slope where it acts, and every place counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.budgets import assert_same_bits, assert_within
from support.cases import Batch, batches
from support.draws import at_most
from support.inputs.kl_cases import Policies, by_estimator, policies, reductions_of, term
from support.libraries import Library
from support.oracles import kl as judge

from gspo_core.kl import K3, Capped


def within(p: Policies, cap: float, whole: bool) -> tuple[list[list[float]], np.ndarray]:
    """(log-probs no further than the cap from the reference, where that moved them); `whole`: the sum over a response."""
    rows, beyond = p.logp.tolist(), np.zeros(p.mask.shape, dtype=bool)
    for i, mask in enumerate(p.mask):
        tokens = [t for t, ok in enumerate(mask) if ok]
        for unit in [tokens] if whole and tokens else [[t] for t in tokens]:
            x = math.fsum(p.ref[i][t] - p.logp[i][t] for t in unit)
            if abs(x) > cap:
                beyond[i, unit] = True
                rows[i][unit[0]] += x - math.copysign(cap, x)
    return rows, beyond


@by_estimator
@at_most(8)
@given(batch=batches(edges=False), seed=st.integers(0, 2**16), cap=st.floats(1e-3, 5.0))
def test_the_estimate_is_that_at_a_log_prob_within_the_cap(
    library: Library, estimator: Any, batch: Batch, seed: int, cap: float
) -> None:
    """The scalar formulas, whose weight is kept only where nothing moved."""
    p = policies(batch, seed)
    rows, beyond = within(p, cap, whole=not estimator.per_token)
    for over_tokens in reductions_of(estimator):
        out = term(library, Capped(estimator, cap), p, over_tokens)
        truth = judge.penalty(type(estimator).__name__, rows, p.ref.tolist(), p.old.tolist(), p.mask.tolist(), over_tokens)
        weight = np.where(beyond, 0.0, np.reshape(truth.weight, p.mask.shape))
        assert_within(out.value, truth.value, 1e-11 * (truth.scale + np.abs(truth.weight).sum()) + 1e-13)
        assert_within(out.logp_grad, weight, 1e-11 * np.abs(truth.weight).max(initial=0.0) + 1e-15)
        assert not out.logp_grad[beyond].any()
        expected = beyond if estimator.per_token else beyond.any(axis=1)
        assert np.array_equal(out.capped, expected)


@by_estimator
@at_most(8)
@given(batch=batches(edges=False), seed=st.integers(0, 2**16))
def test_a_cap_that_nothing_reaches_changes_no_bit(library: Library, estimator: Any, batch: Batch, seed: int) -> None:
    p = policies(batch, seed)
    for dtype in (np.float32, np.float64):
        plain, capped = (term(library, k, p, dtype=dtype) for k in (estimator, Capped(estimator, 1e30)))
        assert_same_bits(plain.value, capped.value)
        assert_same_bits(plain.logp_grad, capped.logp_grad)
        assert plain.capped is None
        assert not capped.capped.any()


@by_estimator
@at_most(8)
@given(
    where=st.sampled_from(["logp", "ref"]),
    size=st.sampled_from([-math.inf, -1e6]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_an_excluded_token_leaves_everything_finite(
    library: Library, estimator: Any, where: str, size: float, dtype: type
) -> None:
    """x = ±∞: the other tokens have their slopes, this one (for SequenceKL its response) has none and is counted."""
    rng = np.random.default_rng(1)
    arrays = {name: -1.0 + 0.1 * rng.normal(size=(3, 4)) for name in ("logp", "ref", "old")}
    before = term(library, Capped(estimator, 10.0), Policies(**arrays, mask=np.ones((3, 4), dtype=bool)), dtype=dtype)
    arrays[where][1, 2] = size
    after = term(library, Capped(estimator, 10.0), Policies(**arrays, mask=np.ones((3, 4), dtype=bool)), dtype=dtype)
    here = np.zeros((3, 4), dtype=bool)
    here[1, 2 if estimator.per_token else slice(None)] = True
    assert np.isfinite(after.value)
    assert np.array_equal(after.logp_grad, np.where(here, 0.0, before.logp_grad))
    assert after.capped.sum() == 1
    assert not before.capped.any()


def test_verls_clamp_by_hand(library: Library) -> None:
    """x = log 2 within the cap of 1, x = 3 beyond it: (2 − 1 − log 2 + e − 2) / 2."""
    x, old = np.array([[math.log(2), 3.0]]), np.zeros((1, 2))
    out = term(library, Capped(K3(), 1.0), Policies(old - 3.0, x - 3.0, old, np.ones((1, 2), dtype=bool)))
    assert_within(out.value, (1 - math.log(2) + math.e - 2) / 2, 1e-15)
    assert_within(out.logp_grad, [[-0.5, 0.0]], 1e-15)
    assert out.capped.tolist() == [[False, True]]
