"""KL terms are the scalar formulas, their weight is the derivative of their value, and they are finite everywhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.budgets import assert_close64, assert_same_bits, assert_within
from support.cases import POISONS, Batch, batches
from support.inputs.kl_cases import ESTIMATORS, Policies, by_estimator, largest_units, policies, reductions_of, term
from support.libraries import Library
from support.oracles import kl as judge

from gspo_core import Packed, Padded, SequenceMean, TokenKL, kl_penalty
from gspo_core.kl import K1, K2, K3, KAbs, SequenceK2, SequenceKL


def verdict(estimator: Any, p: Policies, over_tokens: bool) -> judge.Penalty:
    """The oracle's."""
    rows = (p.logp.tolist(), p.ref.tolist(), p.old.tolist(), p.mask.tolist())
    return judge.penalty(type(estimator).__name__, *rows, over_tokens)


@by_estimator
@given(batch=batches(edges=False), seed=st.integers(0, 2**16))
def test_value_and_weight_are_the_scalar_ones(library: Library, estimator: Any, batch: Batch, seed: int) -> None:
    """k3 is good to an eps of x, not of its own x²/2: 1e-15 · |x| per unit, times its ratio."""
    p = policies(batch, seed)
    assume(largest_units(p) < 40.0)
    for over_tokens in reductions_of(estimator):
        out, truth = term(library, estimator, p, over_tokens), verdict(estimator, p, over_tokens)
        weight = np.reshape(truth.weight, p.mask.shape)
        size = np.abs(weight).max(initial=0.0)
        assert_within(out.value, truth.value, 1e-12 * truth.scale + 1e-14 * np.abs(weight).sum())
        assert_within(out.logp_grad, weight, 1e-12 * size)


@by_estimator
@given(batch=batches(edges=False), seed=st.integers(0, 2**16))
def test_float32_stays_in_its_budget(library: Library, estimator: Any, batch: Batch, seed: int) -> None:
    """Differences of log-probs near 10 are exact or off by an eps of 10; nine of them and an exp of up to 10 follow."""
    p = policies(batch, seed).poisoned(0.0)
    p = Policies(*(x.astype(np.float32).astype(np.float64) for x in (p.logp, p.ref, p.old)), p.mask)
    assume(largest_units(p) < 10.0)
    out, truth = term(library, estimator, p, dtype=np.float32), verdict(estimator, p, False)
    weight = np.reshape(truth.weight, p.mask.shape)
    # Errors of X and D act on the value through its slope, e^D |X| and e^D (e^X − 1 − X), and on the slope through e^D.
    growth = math.exp(largest_units(p))
    budget = 64 * float(np.finfo(np.float32).eps) * (1.0 + largest_units(p)) ** 2 * growth
    assert out.value.dtype == out.logp_grad.dtype == np.float32
    assert_within(out.value, truth.value, budget)
    assert_within(out.logp_grad, weight, budget)


def test_hand_computed_numbers(library: Library) -> None:
    """x = log 2 and d = log 3, one token of one."""
    x, d, one = math.log(2), math.log(3), np.ones((1, 1), dtype=bool)
    p = Policies(np.full((1, 1), -2.0), np.full((1, 1), -2.0 + x), np.full((1, 1), -2.0 - d), one)
    expected = {
        K1(): (-x, 1.0),
        K2(): (x * x / 2, -x),
        K3(): (1 - x, -1.0),
        TokenKL(): (3 * (1 - x), -3 * x),
        SequenceKL(): (3 * (1 - x), -3 * x),
        SequenceK2(): (x * x / 2, -x),
        KAbs(): (x, -1.0),
    }
    for estimator, (value, slope) in expected.items():
        out = term(library, estimator, p)
        assert_close64(out.value, value)
        assert_close64(out.logp_grad, [[slope]])


def test_a_sequence_is_one_unit(library: Library) -> None:
    """x = (log 2, log 2), d = (log 3, −log 3): X = log 4, ρ = 1; the other response is empty."""
    x, d = np.log([[2.0, 2.0], [1.0, 1.0]]), np.log([[3.0, 1 / 3], [1.0, 1.0]])
    p = Policies(-d * 0 - 1.0, x - 1.0, -1.0 - d, np.array([[True, True], [False, False]]))
    out = term(library, SequenceKL(), p)
    assert_close64(out.value, 3 - math.log(4))
    assert_close64(out.logp_grad, [[-math.log(4)] * 2, [0, 0]])


@by_estimator
@given(batch=batches(), seed=st.integers(0, 2**16), poison=st.sampled_from(POISONS))
def test_masked_slots_are_inert(library: Library, estimator: Any, batch: Batch, seed: int, poison: float) -> None:
    p = policies(batch, seed)
    for dtype in (np.float32, np.float64):
        clean, dirty = (term(library, estimator, q, dtype=dtype) for q in (p.poisoned(0.0), p.poisoned(poison)))
        for a, b in zip(clean[:2], dirty[:2], strict=True):
            assert_same_bits(a, b)
        assert not dirty.logp_grad[~p.mask].any()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2, 3)])
@by_estimator
def test_a_batch_without_tokens_has_no_divergence(library: Library, estimator: Any, shape: tuple[int, int]) -> None:
    p = Policies(np.full(shape, np.nan), np.full(shape, np.inf), np.zeros(shape), np.zeros(shape, dtype=bool))
    for over_tokens in reductions_of(estimator):
        out = term(library, estimator, p, over_tokens)
        assert_same_bits(out.value, np.zeros(()))
        assert_same_bits(np.abs(out.logp_grad), np.zeros(shape))


@by_estimator
def test_equal_policies_have_no_divergence(library: Library, estimator: Any) -> None:
    logp = np.log([[0.3, 0.6], [0.1, 0.9]])
    out = term(library, estimator, Policies(logp, logp, logp, np.ones((2, 2), dtype=bool)))
    assert out.value == 0
    assert out.logp_grad.any() == (estimator == K1())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@by_estimator
def test_gaps_of_a_million_are_finite(library: Library, estimator: Any, dtype: type) -> None:
    """Every pair of x and d; on their own for each estimator, and in one sequence."""
    sizes = [1e6, 1e3, 89.0, 51.0, 49.0, 0.0, -49.0, -104.0, -1e6]
    x, d = (np.array(a).ravel() for a in np.meshgrid(sizes, sizes))
    logp = np.minimum(-1.0, d)
    for shape in ((-1, 1), (1, -1)):
        tokens = [a.reshape(shape) for a in (logp, logp + x, logp - d)]
        p = Policies(*tokens, np.ones(tokens[0].shape, dtype=bool))
        for over_tokens in reductions_of(estimator):
            out = term(library, estimator, p, over_tokens, dtype)
            assert np.isfinite(out.value)
            assert np.isfinite(out.logp_grad).all()


STEP = 2.0**-10


@pytest.mark.parametrize("d", [-30.0, 0.0, 3.0, 49.0, 49.99, 50.01, 60.0, 1000.0])
@pytest.mark.parametrize("x", [-1e3, -3.0, -4 * STEP, 0.5, 0.999, 1.001, 3.0, 30.0, 49.0, 60.0, 1000.0])
def test_the_slope_is_the_derivative_of_the_value_across_the_guards(x: float, d: float) -> None:
    """By central differences in log π, which moves x down and d up; the guards start at 50, the change of form at x = 1.

    The differences reach two steps to either side and stay on one side of 0, where |x| has no derivative.
    """
    for estimator in ESTIMATORS:

        def at(steps: float, estimator: Any = estimator) -> float:
            moved = np.array([x - steps * STEP]), np.array([d + steps * STEP])
            return float(estimator(np, *moved).value[0])

        slope = float(estimator(np, np.array([x]), np.array([d])).slope[0])
        difference = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * STEP)
        terms = max(abs(at(0)), math.exp(min(d + x, 50.0)) * (1 + abs(x)), abs(slope))
        if not estimator.off_policy:
            terms = max(abs(at(0)), abs(slope))
        # h⁴/30 of the fifth derivative, and rounding over the step; π_ref/π_old is a constant that cancels.
        assert abs(difference - slope) < 1e-9 * terms, estimator


def test_k3_is_never_negative_and_precise_where_it_is_small() -> None:
    """By expm1: exp(1e-9) − 1 − 1e-9 has no correct digit, 1e-9²/2."""
    x = np.concatenate([-(10.0 ** np.arange(-12.0, 2)), 10.0 ** np.arange(-12.0, 1)])
    for estimator, d in ((K3(), 0 * x), (TokenKL(), x), (SequenceKL(), -x)):
        out = estimator(np, x, d)
        assert (out.value >= 0).all()
        exact = np.array([judge.estimate(type(estimator).__name__, a, b) for a, b in zip(x.tolist(), d.tolist(), strict=True)])
        assert_within(out.slope, exact[:, 1], 1e-15 * np.abs(exact[:, 1]))
        assert_within(out.value, exact[:, 0], 1e-15 * (np.abs(x) * np.exp(d) + exact[:, 0]))


@by_estimator
def test_packed_and_padded_agree(library: Library, estimator: Any) -> None:
    rng = np.random.default_rng(0)
    p = Policies(*(-rng.exponential(size=(3, 4)) for _ in range(3)), rng.random((3, 4)) < 0.6)
    padded = term(library, estimator, p)
    ids = np.where(p.mask, np.arange(3)[:, None], -1).ravel()
    packed = kl_penalty(
        estimator,
        *(library.array(a.ravel()) for a in (p.logp, p.ref)),
        Packed(library.array(ids), 3),
        reduction=SequenceMean(),
        old_logp=library.array(p.old.ravel()) if estimator.off_policy else None,
    )
    assert_close64(library.numpy(packed.value), padded.value)
    assert_close64(library.numpy(packed.logp_grad), padded.logp_grad.ravel())


@by_estimator
def test_parts_add_up_under_one_denominator(library: Library, estimator: Any) -> None:
    rng = np.random.default_rng(1)
    p = Policies(*(-rng.exponential(size=(4, 3)) for _ in range(3)), rng.random((4, 3)) < 0.7)
    whole, count = term(library, estimator, p), float(p.mask.any(axis=1).sum())
    parts = []
    for rows in ([0], [1, 2, 3]):
        logp, ref, old = (library.array(a[rows]) for a in (p.logp, p.ref, p.old))
        given_old = old if estimator.off_policy else None
        layout = Padded(library.array(p.mask[rows]))
        parts.append(kl_penalty(estimator, logp, ref, layout, reduction=SequenceMean(), old_logp=given_old, denominator=count))
    assert_close64(sum(library.numpy(part.value) for part in parts), whole.value)
    assert_close64(np.concatenate([library.numpy(part.logp_grad) for part in parts]), whole.logp_grad)
