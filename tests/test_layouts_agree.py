"""Layouts: what they exchange, what they refuse, and that no axis is guessed. test_family_matches_the_papers has the values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from budgets import REL64, assert_close64, assert_within
from cases import Case, core_loss
from hypothesis import given
from hypothesis import strategies as st
from libraries import NUMPY, Library, on_every_library
from one_shape import EXAMPLES
from ranks import on_all_ranks

from gspo_core import DEEPSEEK_V3_2, GSPO, Clip, Loss, Packed, Padded, PerToken, policy_loss, sharded


def test_gspo_exchanges_lengths_and_log_ratios_and_nothing_else() -> None:
    mask, zeros = np.ones((3, 1000), dtype=bool), np.zeros((3, 1000))

    def one_rank(total: Callable[[Any], Any]) -> Loss:
        return policy_loss(GSPO, zeros, zeros, np.ones(3), sharded(Padded(mask), total))

    _, sums = on_all_ranks([one_rank, one_rank])
    assert [[part.shape for part in parts] for parts in sums] == [[(3,), (3,)], [(3,), (3,)]]
    assert [part.tolist() for part in sums[0]] == [[1000] * 3] * 2


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_hold_the_whole(ranks: int) -> None:
    """GRPO with a gate on whole responses: four sums of each rank, the later ones depend on the earlier ones."""
    batch = EXAMPLES["holes"].clean()
    columns = [slice(rank, None, ranks) for rank in range(ranks)]

    def on_rank(rank: int) -> Callable[[Any], Loss]:
        arrays = (x[:, columns[rank]] for x in (batch.logp, batch.old_logp))
        logp, old = arrays
        part = Padded(batch.mask[:, columns[rank]])
        return lambda total: policy_loss(DEEPSEEK_V3_2, logp, old, batch.advantage, sharded(part, total))

    losses, sums = on_all_ranks([on_rank(rank) for rank in range(ranks)])
    whole = core_loss(NUMPY, DEEPSEEK_V3_2, batch)
    assert len(sums) > 2
    for rank, loss in enumerate(losses):
        assert_close64(loss.value, whole.value)
        assert_within(loss.logp_grad, whole.logp_grad[:, columns[rank]], REL64 * np.abs(whole.logp_grad[:, columns[rank]]))


def test_a_rank_local_mean_would_be_seen() -> None:
    """The guard: without the exchange the parts are not the whole."""
    logp, mask = np.array([[0.01, 0.01, -0.2, -0.2]]), np.ones((1, 4), dtype=bool)
    whole = policy_loss(GSPO, logp, np.zeros((1, 4)), np.array([1.0]), Padded(mask))
    part = policy_loss(GSPO, logp[:, :2], np.zeros((1, 2)), np.array([1.0]), sharded(Padded(mask[:, :2]), lambda x: x))
    assert abs(float(part.value - whole.value)) > 0.05
    assert bool(part.clipped[0]) != bool(whole.clipped[0])


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


@on_every_library
def test_one_axis_is_never_guessed(library: Library, token_case: Case) -> None:
    """T equals N here: an unmarked advantage is per sequence, a marked one per token."""
    packed = Packed(library.array(np.array([0, 0, 1])), 3)
    zeros, advantage = library.array(np.zeros(3)), library.array(np.array([1.0, -2.0, 4.0]))
    unmarked = policy_loss(token_case.preset, zeros, zeros, advantage, packed)
    marked = policy_loss(token_case.preset, zeros, zeros, PerToken(advantage), packed)
    assert library.numpy(unmarked.logp_grad).tolist() == [-0.25, -0.25, 1.0]
    assert library.numpy(marked.logp_grad).tolist() == [-0.25, 0.5, -2.0]


@on_every_library
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


@on_every_library
def test_wrong_advantages_for_a_packed_layout_are_refused(library: Library, token_case: Case) -> None:
    packed = Packed(library.array(np.array([0, 0, 1, 1])), 2)
    zeros = library.array(np.zeros(4))
    with pytest.raises(ValueError, match=r"^advantage: expected \[2\] .* or PerToken\(values\) \(one per token\), got \[4\]"):
        policy_loss(token_case.preset, zeros, zeros, zeros, packed)
    with pytest.raises(ValueError, match=r"^advantage: PerToken expected the layout's shape \[4\], got \[2\]"):
        policy_loss(token_case.preset, zeros, zeros, PerToken(library.array(np.zeros(2))), packed)
    with pytest.raises(ValueError, match=r"^advantage: Sequence\(\) has one ratio per sequence .* Use SequenceToken\(\)"):
        policy_loss(GSPO, zeros, zeros, PerToken(zeros), packed)
