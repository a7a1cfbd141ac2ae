"""Contracts of layouts, not laws of a loss: what they exchange, what they refuse, and that no axis is guessed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cases import Case
from support.libraries import Library, on_every_library
from support.ranks import on_all_ranks

from gspo_core import GSPO, Loss, Packed, Padded, PerToken, policy_loss, sharded


def test_gspo_exchanges_lengths_and_log_ratios_and_nothing_else() -> None:
    mask, zeros = np.ones((3, 1000), dtype=bool), np.zeros((3, 1000))

    def one_rank(total: Callable[[Any], Any]) -> Loss:
        return policy_loss(GSPO, zeros, zeros, np.ones(3), sharded(Padded(mask), total))

    _, sums = on_all_ranks([one_rank, one_rank])
    assert [[part.shape for part in parts] for parts in sums] == [[(3,), (3,)], [(3,), (3,)]]
    assert [part.tolist() for part in sums[0]] == [[1000] * 3] * 2


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
    objective = GSPO.with_clip(0.03, 0.04)
    loss = policy_loss(objective, logp, np.zeros(4), np.array([1.0, -1.0, np.nan]), packed)
    s = 0.9900498337491681
    assert float(loss.value) == pytest.approx(-(1.04 - s) / 2, rel=1e-14)
    assert loss.logp_grad.tolist() == pytest.approx([0.0, 0.0, s / 2, 0.0], rel=1e-14)
    assert loss.clipped.tolist() == [True, False, False]


@pytest.mark.slow
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
def test_wrong_advantages_for_a_packed_layout_are_refused(library: Library, token_case: Case) -> None:
    packed = Packed(library.array(np.array([0, 0, 1, 1])), 2)
    zeros = library.array(np.zeros(4))
    with pytest.raises(ValueError, match=r"^advantage: expected \[2\] .* or PerToken\(values\) \(one per token\), got \[4\]"):
        policy_loss(token_case.preset, zeros, zeros, zeros, packed)
    with pytest.raises(ValueError, match=r"^advantage: PerToken expected the layout's shape \[4\], got \[2\]"):
        policy_loss(token_case.preset, zeros, zeros, PerToken(library.array(np.zeros(2))), packed)
    with pytest.raises(ValueError, match=r"^advantage: Sequence\(\) has one ratio per sequence .* Use SequenceToken\(\)"):
        policy_loss(GSPO, zeros, zeros, PerToken(zeros), packed)
