"""What a geometric mean of token ratios is, and what it is not (theory D1-D5, C4)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from budgets import REL64, assert_close64, assert_within
from cases import CASES, Batch, batches, core_loss
from hypothesis import assume, given
from hypothesis import strategies as st
from libraries import NUMPY, Library

from gspo_core import GRPO, GSPO, Padded, Sequence, SequenceToken, Token


def token_ratios(batch: Batch) -> np.ndarray:
    """d_it, 0 where masked."""
    return np.where(batch.mask, batch.clean().logp - batch.clean().old_logp, 0.0)


def row(d: list[float], low: float = 0.9, high: float = 5.0) -> Batch:
    """One full sequence with given token log ratios and A = 1."""
    width = (1, len(d))
    return Batch(np.array([d]), np.zeros(width), np.ones(width, dtype=bool), np.ones(1), np.ones(width), low, high)


@given(batch=batches())
def test_s_lies_between_the_smallest_ratio_and_the_arithmetic_mean(library: Library, batch: Batch) -> None:
    log_s, d = core_loss(library, GSPO, batch).log_ratio, token_ratios(batch)
    for i in np.flatnonzero(batch.mask.any(axis=1)):
        own = d[i, batch.mask[i]]
        slack = REL64 * np.abs(own).max()
        log_mean = np.log(np.mean(np.exp(own - own.max()))) + own.max()
        log_harmonic = -(np.log(np.mean(np.exp(own.min() - own))) - own.min())
        assert own.min() - slack <= log_harmonic + 1e-12
        assert log_harmonic - slack - 1e-12 <= log_s[i] <= log_mean + slack + 1e-12
        assert log_mean <= own.max() + slack + 1e-12


def test_half_and_double_make_one() -> None:
    assert_close64(core_loss(NUMPY, GSPO, row([np.log(2.0), -np.log(2.0)])).log_ratio, [0.0], 1.0)
    assert_close64(core_loss(NUMPY, GSPO, row([np.log(2.0), np.log(8.0)])).log_ratio, [np.log(4.0)], 1.0)


@given(batch=batches(edges=False), seed=st.integers(0, 2**16))
def test_gspo_does_not_see_a_change_that_sums_to_zero(library: Library, batch: Batch, seed: int) -> None:
    """D2: ξ with Σ_t ξ_t = 0 inside a response leaves s, gate, loss and weight alone."""
    assume(batch.distance_to_kinks(CASES[0], hits=True) > 1e-9)
    xi = np.where(batch.mask, np.random.default_rng(seed).normal(size=batch.mask.shape), 0.0)
    xi -= np.where(batch.mask, xi.sum(axis=1, keepdims=True) / np.maximum(1, batch.mask.sum(axis=1, keepdims=True)), 0.0)
    moved = replace(batch, logp=batch.logp + xi)
    objective = batch.with_clip(GSPO)
    a, b = core_loss(library, objective, batch), core_loss(library, objective, moved)
    # The shift itself is rounded: 1e-16 of |logp| + |ξ| per token.
    assert_close64(b.value, a.value, 10 * batch.judged(CASES[0]).scale)
    assert_within(b.logp_grad, a.logp_grad, 10 * REL64 * np.abs(a.logp_grad))
    assert (a.clipped == b.clipped).all()


def test_grpo_does_see_it() -> None:
    """The guard of the test above: the same change moves GRPO by a factor cosh(1)."""
    value = core_loss(NUMPY, row([0.0, 0.0]).with_clip(GRPO), row([0.0, 0.0])).value
    moved = core_loss(NUMPY, row([1.0, -1.0]).with_clip(GRPO), row([1.0, -1.0])).value
    assert_close64(moved, np.cosh(1.0) * value)


@given(batch=batches(), seed=st.integers(0, 2**16))
def test_permuting_the_tokens_of_a_response_permutes_nothing_in_gspo(library: Library, batch: Batch, seed: int) -> None:
    assume(batch.distance_to_kinks(CASES[0]) > 1e-9)
    order = np.random.default_rng(seed).permutation(batch.mask.shape[1])
    arrays = {name: getattr(batch, name)[:, order] for name in ("logp", "old_logp", "mask")}
    objective = batch.with_clip(GSPO)
    a, b = core_loss(library, objective, batch), core_loss(library, objective, replace(batch, **arrays))
    assert_close64(b.value, a.value, batch.judged(CASES[0]).scale)
    assert_within(b.logp_grad, a.logp_grad[:, order], REL64 * np.abs(a.logp_grad[:, order]))


@given(batch=batches(edges=False), seed=st.integers(0, 2**16))
def test_ratios_multiply_along_a_chain_of_policies(library: Library, batch: Batch, seed: int) -> None:
    """D3: s(a→c) = s(a→b) s(b→c), and s(a→b) s(b→a) = 1."""
    middle = replace(batch, logp=np.where(batch.mask, -np.random.default_rng(seed).exponential(size=batch.mask.shape), np.nan))
    first = core_loss(library, GSPO, middle).log_ratio
    second = core_loss(library, GSPO, replace(batch, old_logp=middle.logp)).log_ratio
    whole = core_loss(library, GSPO, batch).log_ratio
    back = core_loss(library, GSPO, replace(middle, logp=batch.old_logp, old_logp=middle.logp)).log_ratio
    scale = np.abs(np.where(batch.mask, batch.logp, 0.0)).max(initial=1.0) + np.abs(token_ratios(batch)).max(initial=1.0) + 30
    assert_close64(first + second, whole, scale)
    assert_close64(first, -back, scale)


def test_segments_average_with_their_lengths(library: Library) -> None:
    """D4, on a dyadic grid, hence exactly: log s(y1 y2) = (L1 log s1 + L2 log s2)/(L1 + L2)."""
    d = np.arange(8) / 8 - 0.25
    for cut in (0, 2, 4, 6, 8):
        left, right = d[:cut], d[cut:]
        sums = float(left.sum() + right.sum())
        assert core_loss(library, GSPO, row(d.tolist())).log_ratio.tolist() == [sums / 8]


@given(batch=batches(edges=False), extra=st.integers(1, 5))
def test_forced_tokens_dilute_the_ratio(library: Library, batch: Batch, extra: int) -> None:
    """D5: k tokens with d = 0 multiply log s by L/(L + k), and loosen the gate."""
    zeros, more = np.zeros((len(batch.mask), extra)), np.repeat(batch.mask.any(axis=1)[:, None], extra, axis=1)
    longer = replace(
        batch,
        logp=np.hstack([batch.logp, zeros]),
        old_logp=np.hstack([batch.old_logp, zeros]),
        mask=np.hstack([batch.mask, more]),
    )
    lengths = batch.mask.sum(axis=1)
    log_s = core_loss(library, GSPO, batch).log_ratio
    expected = log_s * lengths / np.maximum(1, lengths + extra * (lengths > 0))
    assert_close64(core_loss(library, GSPO, longer).log_ratio, expected, np.abs(token_ratios(batch)).max(initial=0.0))


def test_dilution_opens_the_gate_and_splitting_a_token_changes_s() -> None:
    short, diluted, split = row([0.3], 0.2, 0.2), row([0.3, 0.0], 0.2, 0.2), row([0.15, 0.15], 0.2, 0.2)
    losses = [core_loss(NUMPY, batch.with_clip(GSPO), batch) for batch in (short, diluted, split)]
    assert [loss.clipped.tolist() for loss in losses] == [[True], [False], [False]]
    assert_close64([loss.log_ratio[0] for loss in losses], [0.3, 0.15, 0.15])


@given(batch=batches(edges=False, max_tokens=4))
def test_gspo_is_grpo_where_the_token_ratios_of_a_response_are_equal(library: Library, batch: Batch) -> None:
    """C4, length one included."""
    d = token_ratios(batch).sum(axis=1, keepdims=True) * np.ones(batch.mask.shape)
    level = replace(batch.clean(), logp=d, old_logp=np.zeros(batch.mask.shape))
    assume(level.distance_to_kinks(CASES[0]) > 1e-9)
    gspo, grpo = core_loss(library, batch.with_clip(GSPO), level), core_loss(library, batch.with_clip(GRPO), level)
    assert_close64(grpo.value, gspo.value, level.judged(CASES[0]).scale)
    # exp turns the rounding of log s into a relative error: 1e-12 · |log s|.
    assert_within(grpo.logp_grad, gspo.logp_grad, REL64 * (1 + np.abs(d).max(initial=0.0)) * np.abs(gspo.logp_grad))
    assert (grpo.clipped == (gspo.clipped[:, None] & batch.mask)).all()


def test_gspo_is_not_grpo_where_they_differ() -> None:
    batch = row([0.5, -0.5])
    assert_close64(core_loss(NUMPY, batch.with_clip(GSPO), batch).value, -1.0)
    assert_close64(core_loss(NUMPY, batch.with_clip(GRPO), batch).value, -np.cosh(0.5))


@given(batch=batches(), seed=st.integers(0, 2**16))
def test_pull_back_is_the_transpose_of_push_forward(library: Library, batch: Batch, seed: int) -> None:
    """⟨g, push_forward(d)⟩ = ⟨pull_back(g), d⟩ for every ratio."""
    rng, layout = np.random.default_rng(seed), Padded(library.array(batch.mask))
    d = rng.normal(size=batch.mask.shape)
    for ratio in (Token(), Sequence(), SequenceToken()):
        g = rng.normal(size=batch.mask.shape if ratio.per_token else len(batch.mask))
        g = np.where(batch.mask if ratio.per_token else batch.mask.any(axis=1), g, 0.0)
        pushed = library.numpy(ratio.push_forward(library.array(d), layout))
        pulled = library.numpy(ratio.pull_back(library.array(g), layout))
        assert_close64((g * pushed).sum(), (pulled * d).sum(), np.abs(d).sum() * np.abs(g).max(initial=0.0))
