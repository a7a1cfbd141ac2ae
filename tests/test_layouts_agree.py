"""Padded, packed and sharded are one loss: same value, same weights at the same tokens, same decisions."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from budgets import REL64, assert_close64, assert_within
from cases import Batch, Case, batches
from hypothesis import assume, find, given, settings
from hypothesis import strategies as st
from libraries import NUMPY, Library
from ranks import Ranks

from gspo_core import GSPO, Clip, Layout, Loss, Packed, Padded, PerToken, policy_loss, sharded


def loss_of(library: Library, case: Case, batch: Batch, layout: Layout, arrays: list[np.ndarray], tokens: bool) -> Loss:
    """The loss on any layout; `arrays` are logp, old_logp and the token advantages in its shape."""
    logp, old, token_advantage = (library.array(x) for x in arrays)
    advantage = PerToken(token_advantage) if tokens else library.array(batch.advantage)
    loss = policy_loss(batch.with_clip(case.preset), logp, old, advantage, layout)
    return Loss(*(library.numpy(x) for x in loss[:-1]), loss.on_policy)


def token_arrays(batch: Batch) -> list[np.ndarray]:
    """What has a token axis."""
    return [batch.logp, batch.old_logp, batch.token_advantage]


def pack(batch: Batch, hole: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """(segment_ids, token arrays) with every slot kept; masked ones belong to nobody."""
    ids = np.where(batch.mask, np.arange(len(batch.mask))[:, None], hole).reshape(-1)
    return ids, [x.reshape(-1) for x in token_arrays(batch)]


@given(batch=batches(edges=False), tokens=st.booleans(), hole=st.sampled_from([-1, -7, 1000]), seed=st.integers(0, 99))
def test_packed_is_padded(library: Library, case: Case, batch: Batch, tokens: bool, hole: int, seed: int) -> None:
    tokens &= case.per_token
    assume(batch.distance_to_kinks(case) > 1e-9)
    padded = loss_of(library, case, batch, Padded(library.array(batch.mask)), token_arrays(batch), tokens)
    ids, arrays = pack(batch, hole)
    order = np.random.default_rng(seed).permutation(len(ids)) if seed % 2 else np.arange(len(ids))
    layout = Packed(library.array(ids[order]), len(batch.mask))
    loss = loss_of(library, case, batch, layout, [x[order] for x in arrays], tokens)
    flat = Loss(*(x.reshape(-1) if getattr(x, "ndim", 0) == 2 else x for x in padded[:-1]), padded.on_policy)
    spread = np.max(np.abs(batch.clean().logp - batch.clean().old_logp), initial=0.0)
    scale = batch.judged(case, batch.token_advantage if tokens else None).scale
    assert_close64(loss.value, padded.value, scale)
    assert_within(loss.logp_grad, flat.logp_grad[order], REL64 * np.abs(flat.logp_grad[order]) * (1 + spread))
    assert (loss.logp_grad[ids[order] == hole] == 0).all()
    units = order if case.per_token else slice(None)
    assert_within(loss.log_ratio, flat.log_ratio[units], REL64 * spread)
    assert loss.clipped.tolist() == flat.clipped[units].tolist()
    assert loss.denominator == padded.denominator


@given(batch=batches(edges=False), tokens=st.booleans(), cuts=st.lists(st.integers(0, 9), min_size=1, max_size=3))
def test_the_parts_of_a_sharded_loss_are_the_whole(
    library: Library, case: Case, batch: Batch, tokens: bool, cuts: list[int]
) -> None:
    tokens &= case.per_token
    assume(batch.distance_to_kinks(case) > 1e-9)
    whole = loss_of(library, case, batch, Padded(library.array(batch.mask)), token_arrays(batch), tokens)
    width = batch.mask.shape[1]
    bounds = [0, *sorted(min(cut, width) for cut in cuts), width]  # equal neighbours are ranks without a column
    columns = [slice(a, b) for a, b in itertools.pairwise(bounds)]
    ranks = Ranks(len(columns))

    def one_rank(rank: int) -> Loss:
        part = Padded(library.array(batch.mask[:, columns[rank]]))
        layout = sharded(part, ranks.all_reduce(rank))
        return loss_of(library, case, batch, layout, [x[:, columns[rank]] for x in token_arrays(batch)], tokens)

    spread = np.max(np.abs(batch.clean().logp - batch.clean().old_logp), initial=0.0)
    scale = batch.judged(case, batch.token_advantage if tokens else None).scale
    for rank, loss in enumerate(ranks.run(one_rank)):
        weight = whole.logp_grad[:, columns[rank]]
        assert_close64(loss.value, whole.value, scale)
        assert_within(loss.logp_grad, weight, REL64 * np.abs(weight) * (1 + spread))
        clipped = whole.clipped[:, columns[rank]] if case.per_token else whole.clipped
        assert loss.clipped.tolist() == clipped.tolist()
        assert loss.denominator == whole.denominator


def test_gspo_exchanges_lengths_and_log_ratios_and_nothing_else() -> None:
    ranks = Ranks(2)

    def one_rank(rank: int) -> None:
        layout = sharded(Padded(np.ones((3, 1000), dtype=bool)), ranks.all_reduce(rank))
        policy_loss(GSPO, np.zeros((3, 1000)), np.zeros((3, 1000)), np.ones(3), layout)

    ranks.run(one_rank)
    assert ranks.exchanged == [(3,), (3,)]


def test_a_rank_local_mean_would_be_seen() -> None:
    """The guard: without the exchange the parts are not the whole."""
    logp, mask = np.array([[0.01, 0.01, -0.2, -0.2]]), np.ones((1, 4), dtype=bool)
    whole = policy_loss(GSPO, logp, np.zeros((1, 4)), np.array([1.0]), Padded(mask))
    part = policy_loss(GSPO, logp[:, :2], np.zeros((1, 2)), np.array([1.0]), sharded(Padded(mask[:, :2]), lambda x: x))
    assert abs(float(part.value - whole.value)) > 0.05
    assert bool(part.clipped[0]) != bool(whole.clipped[0])


def test_the_draws_clip_across_shards(case: Case) -> None:
    def telling(batch: Batch) -> bool:
        loss = loss_of(NUMPY, case, batch, Padded(batch.mask), token_arrays(batch), False)
        return bool(loss.clipped.any() and not loss.clipped[batch.mask.any(axis=1)].all() and batch.mask.shape[1] > 3)

    find(batches(edges=False), telling, settings=settings(max_examples=2000, database=None, derandomize=True))


@given(lengths=st.lists(st.integers(0, 4), min_size=1, max_size=6), tail=st.integers(0, 3))
def test_cu_seqlens_are_segments(library: Library, lengths: list[int], tail: int) -> None:
    cu, total = np.cumsum([0, *lengths]), sum(lengths) + tail
    packed = Packed.from_cu_seqlens(library.array(cu), total)
    expected = [i for i, length in enumerate(lengths) for _ in range(length)] + [-1] * tail
    assert library.numpy(packed.segment_ids).tolist() == expected
    assert library.numpy(packed.lengths()).tolist() == lengths
    mask = np.arange(total) % 2 == 0
    holed = Packed.from_cu_seqlens(library.array(cu), total, library.array(mask))
    assert library.numpy(holed.segment_ids).tolist() == [i if keep else -1 for i, keep in zip(expected, mask, strict=True)]


def test_an_anchor_in_a_packed_layout() -> None:
    """s = e^0.1 > 1.04: clipped, gain 1.04; s = e^-0.01: live; two sequences, an empty third does not count."""
    packed = Packed(np.array([0, 0, 1, -1]), 3)
    logp = np.array([0.15, 0.05, -0.01, np.nan])
    objective = replace(GSPO, surrogate=Clip(0.03, 0.04))
    loss = policy_loss(objective, logp, np.zeros(4), np.array([1.0, -1.0, np.nan]), packed)
    s = 0.9900498337491681
    assert float(loss.value) == pytest.approx(-(1.04 - s) / 2, rel=1e-14)
    assert loss.logp_grad.tolist() == pytest.approx([0.0, 0.0, s / 2, 0.0], rel=1e-14)
    assert loss.clipped.tolist() == [True, False, False]


def test_one_axis_is_never_guessed(library: Library, token_case: Case) -> None:
    """T equals N here: an unmarked advantage is per sequence, a marked one per token."""
    packed = Packed(library.array(np.array([0, 0, 1])), 3)
    zeros, advantage = library.array(np.zeros(3)), library.array(np.array([1.0, -2.0, 4.0]))
    unmarked = policy_loss(token_case.preset, zeros, zeros, advantage, packed)
    marked = policy_loss(token_case.preset, zeros, zeros, PerToken(advantage), packed)
    assert library.numpy(unmarked.logp_grad).tolist() == [-0.25, -0.25, 1.0]
    assert library.numpy(marked.logp_grad).tolist() == [-0.25, 0.5, -2.0]


def test_no_sequence_at_all_is_a_loss_of_zero(library: Library, case: Case) -> None:
    for layout, shape in (
        (Packed(library.array(np.full(4, -1)), 0), (4,)),
        (Packed(library.array(np.zeros(0, dtype=int)), 2), (0,)),
        (Padded(library.array(np.zeros((0, 3), dtype=bool))), (0, 3)),
    ):
        zeros = library.array(np.zeros(shape))
        loss = policy_loss(case.preset, zeros, zeros, library.array(np.ones(layout.num_sequences)), layout)
        assert float(library.numpy(loss.value)) == 0.0
        assert (library.numpy(loss.logp_grad) == 0).all()


def test_wrong_advantages_for_a_packed_layout_are_refused(library: Library, token_case: Case) -> None:
    packed = Packed(library.array(np.array([0, 0, 1, 1])), 2)
    zeros = library.array(np.zeros(4))
    with pytest.raises(ValueError, match=r"^advantage: expected \[2\] .* or PerToken\(values\) \(one per token\), got \[4\]"):
        policy_loss(token_case.preset, zeros, zeros, zeros, packed)
    with pytest.raises(ValueError, match=r"^advantage: PerToken expected the layout's shape \[4\], got \[2\]"):
        policy_loss(token_case.preset, zeros, zeros, PerToken(library.array(np.zeros(2))), packed)
    with pytest.raises(ValueError, match=r"^advantage: Sequence\(\) has one ratio per sequence .* Use SequenceToken\(\)"):
        policy_loss(GSPO, zeros, zeros, PerToken(zeros), packed)
