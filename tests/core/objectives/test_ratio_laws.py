"""What a sequence ratio does on average over responses, in exact pieces, and as a weight (docs/theory.md, D4, D6, D8 and D9).

No laws of a loss: theorems about expectations, populations and other functions than losses. What one loss must do on one batch
is in gspo_core/laws.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.budgets import REL64, assert_close64, assert_within
from support.cases import Batch, batches
from support.libraries import Library

from gspo_core import (
    GSPO,
    Objective,
    Packed,
    Padded,
    Sequence,
    SequenceMean,
    SequenceToken,
    Token,
    policy_loss,
    sampler_weight,
    sharded,
)
from gspo_core.mismatch import GEO_RS
from gspo_core.objectives import Band, Product, ProductToken, Unclipped


def log_s_of(d: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The core's log s of padded token log ratios."""
    return Sequence().log_ratio(d, Padded(np.full(d.shape, True) if mask is None else mask))


# ---- D4


@given(batch=batches(), seed=st.integers(0, 2**16))
def test_pull_back_is_the_transpose_of_push_forward(library: Library, batch: Batch, seed: int) -> None:
    """⟨g, push_forward(d)⟩ = ⟨pull_back(g), d⟩ for every ratio: the contract that closed-form gradients rest on."""
    rng, layout = np.random.default_rng(seed), Padded(library.array(batch.mask))
    d = rng.normal(size=batch.mask.shape)
    for ratio in (Token(), Sequence(), SequenceToken(), Product(), ProductToken()):
        g = rng.normal(size=batch.mask.shape if ratio.per_token else len(batch.mask))
        g = np.where(batch.mask if ratio.per_token else batch.mask.any(axis=1), g, 0.0)
        pushed = library.numpy(ratio.push_forward(library.array(d), layout))
        pulled = library.numpy(ratio.pull_back(library.array(g), layout))
        assert_close64((g * pushed).sum(), (pulled * d).sum(), np.abs(d).sum() * np.abs(g).max(initial=0.0))


@given(
    numbers=st.lists(st.integers(-1000, 1000), min_size=1, max_size=24),
    cuts=st.lists(st.integers(0, 24), max_size=4),
    seed=st.integers(0, 99),
)
def test_chunks_packing_shards_and_order_give_one_s_exactly(
    library: Library, numbers: list[int], cuts: list[int], seed: int
) -> None:
    """D4: (Σ d, L) is a commutative monoid; on a dyadic grid there is no rounding, hence no tolerance."""
    d = np.array(numbers) / 1024
    ratio, expected = Sequence(), float(np.float64(sum(numbers)) / 1024 / len(numbers))

    def of(layout: Padded | Packed, x: np.ndarray) -> float:
        return float(ratio.log_ratio(library.array(x), layout)[0])

    assert of(Padded(library.array(np.full((1, len(d)), True))), d[None]) == expected
    assert (
        of(Packed(library.array(np.zeros(len(d), dtype=np.int64)), 1), np.random.default_rng(seed).permutation(d)) == expected
    )
    chunks = np.split(d, sorted(min(c, len(d)) for c in cuts))
    orders = [np.random.default_rng(seed).permutation(len(chunks)), range(len(chunks))]
    for order in orders:  # the partial sums in any order: context parallelism, or a tree
        total, size = sum(chunks[i].sum() for i in order), sum(len(chunks[i]) for i in order)
        assert total / size == expected
    ids = [library.array(np.zeros(len(chunk), dtype=np.int64)) for chunk in chunks]
    parts = [Packed(own, 1) for own in ids]
    sums = [part.sum(library.array(chunk)) for part, chunk in zip(parts, chunks, strict=True)]
    others = [sum(s for j, s in enumerate(sums) if j != i) for i in range(len(sums))]
    counts = [sum(len(c) for j, c in enumerate(chunks) if j != i) for i in range(len(chunks))]
    for i, (part, chunk) in enumerate(zip(parts, chunks, strict=True)):
        rest = iter([counts[i], others[i]])  # what an all-reduce would add: first the lengths, then the sums
        shard = sharded(part, lambda x, rest=rest: x + next(rest))
        assert float(ratio.log_ratio(library.array(chunk), shard)[0]) == expected


# ---- D6, by enumeration of all responses


def tree(rng: np.random.Generator, depth: int, step: float, fixed: bool) -> list[tuple[float, float, int]]:
    """(log π_old, log π, length) of every response over two tokens and a stop, autoregressively random.

    `step` is how far the policies are apart; with `fixed` all responses have `depth` tokens.
    """
    done, open_ = [], [(0.0, 0.0, 0)]
    while open_:
        old, new, length = open_.pop()
        if length == depth:
            done.append((old, new, length))
            continue
        logits = rng.normal(size=2 if fixed else 3)
        moved = logits + step * rng.normal(size=logits.size)
        chances = [np.log(np.exp(x) / np.exp(x).sum()) for x in (logits, moved)]
        for token, (a, b) in enumerate(zip(*chances, strict=True)):
            (done if token == 2 else open_).append((old + a, new + b, length + 1))
    return done


@pytest.mark.parametrize(("seed", "step"), list(itertools.product(range(10), [0.1, 1.0, 3.0])))
def test_s_averages_to_at_most_one_over_old_samples(seed: int, step: float) -> None:
    """D6: E_old[s] ≤ 1 + E_π[1/L] − E_old[1/L]; so at most 1 for a fixed length, where the true ratio averages to 1."""
    for fixed in (True, False):
        old, new, length = (np.array(x) for x in zip(*tree(np.random.default_rng(seed), 4, step, fixed), strict=True))
        assert np.exp(old).sum() == pytest.approx(1.0)
        mask = np.arange(4)[None, :] < length[:, None]
        d = np.where(mask, ((new - old) / length)[:, None], 0.0)
        s = np.exp(log_s_of(d, mask))
        bound = 1 + np.exp(new) @ (1 / length) - np.exp(old) @ (1 / length)
        assert np.exp(old) @ s <= bound + 1e-12
        assert np.exp(old) @ np.exp(Product().log_ratio(d, Padded(mask))) == pytest.approx(1.0)
        if fixed:
            kl = float(np.exp(old) @ (old - new))
            assert float(np.exp(old) @ log_s_of(d, mask)) == pytest.approx(-kl / 4)
            assert bound == pytest.approx(1.0)


def test_for_ragged_responses_s_may_average_above_one() -> None:
    """The guard: the bound's second half is needed. π prefers short responses, whose ratio keeps its full power."""
    # y = one token with probability 1/2 under π_old and 0.9 under π; else ten tokens, the rest sure.
    old, new, length = np.log([0.5, 0.5]), np.log([0.9, 0.1]), np.array([1, 10])
    mean = float(np.exp(old) @ np.exp((new - old) / length))
    assert 1.0 < mean <= 1 + np.exp(new) @ (1 / length) - np.exp(old) @ (1 / length)


# ---- D8: which law of clipping treats lengths alike


@pytest.mark.parametrize(("power", "alike"), [(0.0, None), (0.5, "noise"), (1.0, "drift")])
def test_each_clip_law_treats_lengths_alike_for_its_own_kind_of_movement(power: float, alike: str | None) -> None:
    """D8: |S| ≤ c |y|^p clips short and long equally for independent noise if p = 1/2, for a constant drift if p = 1."""
    rng, n = np.random.default_rng(0), 2000
    rates = {}
    for kind in ("noise", "drift"):
        for length in (16, 256):
            d = 0.05 * rng.normal(size=(n, length)) if kind == "noise" else 0.05 * rng.normal(size=(n, 1)) * np.ones(length)
            # c such that the law clips 16 % of the responses (one side of one sigma) of 16 tokens
            sigma = 0.05 * (4 if kind == "noise" else 16)
            objective = Objective(Product(), Unclipped(), SequenceMean(), Band(sigma / 16**power, power))
            loss = policy_loss(objective, d, np.zeros(d.shape), np.ones(n), Padded(np.full(d.shape, True)))
            rates[kind, length] = float(loss.clipped.mean())
    for kind in ("noise", "drift"):
        assert rates[kind, 16] == pytest.approx(0.159, abs=4 * math.sqrt(0.16 * 0.84 / n))
        same = abs(rates[kind, 256] - rates[kind, 16]) < 4 * math.sqrt(2 * 0.16 * 0.84 / n)
        assert same == (kind == alike), f"{kind}: {rates}"


# ---- D9: effective sample size


def ess(log_weight: np.ndarray) -> float:
    """(Σ w)²/Σ w²."""
    w = np.exp(log_weight - log_weight.max())
    return float(w.sum() ** 2 / (w**2).sum())


@given(seed=st.integers(0, 2**16), n=st.integers(1, 30), length=st.integers(1, 12), scale=st.sampled_from([1e-3, 0.1, 2.0]))
def test_at_equal_lengths_s_keeps_more_samples_effective_than_the_true_ratio(
    seed: int, n: int, length: int, scale: float
) -> None:
    """D9: 1 ≤ ESS ≤ N, scale invariant, non-increasing in the power of the ratio; s is its power 1/L."""
    d = scale * np.random.default_rng(seed).normal(size=(n, length))
    layout = Padded(np.full(d.shape, True))
    log_s, log_rho = Sequence().log_ratio(d, layout), Product().log_ratio(d, layout)
    assert 1.0 - 1e-9 <= ess(log_rho) <= ess(log_s) + 1e-9 <= n + 2e-9
    assert ess(log_rho + 3.0) == pytest.approx(ess(log_rho))
    by_power = [ess(a * log_rho) for a in (0.0, 0.1, 0.5, 1.0, 2.0)]
    assert by_power[0] == pytest.approx(n)
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(by_power))


def test_at_unequal_lengths_it_may_keep_fewer() -> None:
    """D9: ρ = (e, e) is all alike; over lengths of 1 and 8, s is not."""
    log_rho, lengths = np.array([1.0, 1.0]), np.array([1, 8])
    assert ess(log_rho) == pytest.approx(2.0)
    assert ess(log_rho / lengths) < 1.9


# ---- section 2.1


@given(batch=batches(edges=False))
def test_geometric_rejection_is_gspos_gate_on_the_samplers_ratio(library: Library, batch: Batch) -> None:
    """GEO_RS keeps what a GSPO clip of ±0.001 on π_old/π_sampler clips for neither sign of A: the same statistic."""
    old, sampler = (library.array(x) for x in (batch.logp, batch.old_logp))
    layout, objective = Padded(library.array(batch.mask)), GSPO.with_clip(0.001, 0.001)
    found = sampler_weight(GEO_RS, old, sampler, layout)
    signs = [library.array(sign * np.ones(len(batch.mask))) for sign in (1.0, -1.0)]
    losses = [policy_loss(objective, old, sampler, sign, layout) for sign in signs]
    above, below = (library.numpy(loss.clipped) for loss in losses)
    kept = library.numpy(found.kept)
    assert (kept == (~above & ~below & batch.mask.any(axis=1))).all()
    assert_within(
        library.numpy(found.log_raw),
        library.numpy(losses[0].log_ratio),
        REL64 * (1 + np.abs(batch.clean().logp).max(initial=0)),
    )


def test_geometric_rejection_rejects_on_both_sides() -> None:
    """The guard of the claim above."""
    d = np.array([[3e-3, 0.0], [1e-3, 0.0], [-3e-3, 0.0]])
    kept = sampler_weight(GEO_RS, d, np.zeros(d.shape), Padded(np.full(d.shape, True))).kept
    assert kept.tolist() == [False, True, False]
