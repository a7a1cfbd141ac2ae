"""Metrics merged over ranks are `merge` of the ranks' metrics: on every rank, by four all-reduces of constant size."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import gspo_torch
import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from support.budgets import REL64, assert_same_bits, assert_within
from support.cases import Batch, batches
from support.gloo import on_gloo
from support.inputs.metric_cases import measured
from support.libraries import TORCH

from gspo_core import GSPO, Padded, batch_metrics, merge, policy_loss, summary
from gspo_core.metrics import Metrics


def over(parts: list[Metrics]) -> list[Metrics]:
    """What each rank gets that has one of the parts."""
    found: list[Metrics] = on_gloo(len(parts), lambda rank, group: gspo_torch.merge_over(parts[rank], group))
    return found


@given(batch=batches(), belongs=st.lists(st.integers(0, 2), min_size=8, max_size=8), ranks=st.integers(1, 3))
def test_merged_over_ranks_they_are_the_merge_of_the_ranks(batch: Batch, belongs: list[int], ranks: int) -> None:
    """Any partition, ranks without a sequence included."""
    where = np.array(belongs[: len(batch.mask)]) % ranks
    pieces = [batch.rows(where == rank) for rank in range(ranks)]
    parts = [measured(TORCH, GSPO, piece, piece.advantage) for piece in pieces]
    kept = [tuple(vector.clone() for vector in part) for part in parts]
    expected, scale = merge(*parts), max(float(part.sums.abs().max()) for part in parts)
    for found in over(parts):
        for name in ("counts", "minima", "maxima"):
            assert_same_bits(getattr(found, name).numpy(), getattr(expected, name).numpy())
        sums = expected.sums.numpy()
        assert_within(found.sums.numpy(), sums, REL64 * np.maximum(scale, np.abs(sums)))
        assert summary(found).keys() == summary(expected).keys()
    for part, before in zip(parts, kept, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(part, before, strict=True))


@given(
    numbers=st.lists(st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 2.0, math.inf, math.nan]), min_size=3, max_size=3),
)
def test_a_nan_of_any_rank_stays(numbers: list[float]) -> None:
    """Whatever the communication library calls the smaller of a number and NaN."""
    parts = [
        part._replace(minima=part.minima * 0 + x, maxima=part.maxima * 0 + x) for part, x in zip(three(), numbers, strict=True)
    ]
    expected = merge(*parts)
    for found in over(parts):
        np.testing.assert_array_equal(found.minima.numpy(), expected.minima.numpy())
        np.testing.assert_array_equal(found.maxima.numpy(), expected.maxima.numpy())


def three() -> list[Metrics]:
    """Of three ranks, one of which has no sequence, with finite extremes."""
    found = []
    for rank in range(3):
        old, mask = torch.full((2, 3), -1.0), torch.ones(2, 3, dtype=torch.bool) & (rank != 1)
        batch: Any = (old + 0.01 * rank, old, torch.tensor([1.0, -1.0]), Padded(mask))
        one = batch_metrics(GSPO, policy_loss(GSPO, *batch), *batch)
        found.append(one._replace(minima=torch.zeros_like(one.minima), maxima=torch.zeros_like(one.maxima)))
    return found


SIZES = [8 * (3604 + 3 + 9), 4 * 8109, 4 * 3, 4 * 9]
"""Bytes of the four vectors in float32: 64-bit counts, with one more for every extreme; sums; minima; maxima."""


@pytest.mark.parametrize(("rows", "width"), [(0, 1), (1, 1), (5, 70)])
def test_it_is_four_all_reduces_of_the_same_size_whatever_the_batch(rows: int, width: int) -> None:
    seen: list[int] = []
    real = dist.all_reduce

    def counted(x: torch.Tensor, op: Any, group: Any) -> None:
        seen.append(x.nbytes)
        real(x, op, group=group)

    old = torch.full((rows, width), -1.0)
    batch: Any = (old, old, torch.ones(rows), Padded(old < 0))
    with patch.object(dist, "all_reduce", counted):
        over([batch_metrics(GSPO, policy_loss(GSPO, *batch), *batch)])
    assert seen == SIZES
