"""Responses are rejected for what trainer and sampler disagree on, token by token: what cancels in a mean is still seen."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.budgets import assert_within
from support.draws import at_most
from support.libraries import Library
from support.oracles.kl import k3

from gspo_core import Packed, Padded, summary
from gspo_core.metrics import sampler_metrics
from gspo_core.mismatch import Correction, MeanAbsolute, MeanK3, Reject, TokensInside, sampler_weight

MEASURES = {
    MeanAbsolute(): lambda d: math.fsum(math.exp(abs(x)) for x in d) / len(d),
    MeanK3(): lambda d: 1 + math.fsum(map(k3, d)) / len(d),
    TokensInside(0.5, 1.2): lambda d: sum(0.5 <= math.exp(x) <= 1.2 for x in d) / len(d),
}


@pytest.mark.parametrize("level", MEASURES, ids=repr)
@at_most(10)
@given(seed=st.integers(0, 2**16), size=st.sampled_from([1e-3, 0.3, 2.0]))
def test_the_measure_is_the_scalar_one_and_decides(library: Library, level: MeanAbsolute, seed: int, size: float) -> None:
    """Padded and packed alike; what is rejected leaves the layout and is counted, and no other response changes."""
    rng = np.random.default_rng(seed)
    mask = rng.random((5, 4)) < 0.7
    old, sampler = (np.where(mask, x, np.nan) for x in (np.zeros((5, 4)), -size * rng.normal(size=(5, 4))))
    rows = [(old - sampler)[i][mask[i]].tolist() for i in range(5)]
    truth = [MEASURES[level](d) if d else 0.0 for d in rows]
    action = Reject(0.55, math.inf, drop=True) if isinstance(level, TokensInside) else Reject(0.0, 1.25, drop=True)
    kept = [bool(d) and action.low <= w <= action.high for d, w in zip(rows, truth, strict=True)]
    ids = np.where(mask, np.arange(5)[:, None], -1).reshape(-1)
    layouts = (Padded(library.array(mask)), Packed(library.array(ids), 5))
    for layout in layouts:
        arrays = [library.array(x.reshape(layout.shape)) for x in (old, sampler)]
        found = sampler_weight(Correction(level, action), *arrays, layout)
        assert_within(library.numpy(found.raw), truth, 1e-13 * np.maximum(1.0, truth))
        assert library.numpy(found.kept).tolist() == kept
        assert library.numpy(found.weight).tolist() == [float(x) for x in kept]
        assert library.numpy(found.layout.lengths()).tolist() == [len(d) * k for d, k in zip(rows, kept, strict=True)]
        numbers = summary(sampler_metrics(Correction(level, action), *arrays, layout))
        there = sum(map(bool, rows))
        assert numbers.get("sampler_rejected", 0.0) == ((there - sum(kept)) / there if there else 0.0)


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan, 1e6])
def test_one_token_vetoes_its_response_and_no_other(library: Library, wrong: float) -> None:
    d = np.zeros((2, 1000))
    d[1, 500] = wrong
    layout = Padded(library.array(np.ones((2, 1000), dtype=bool)))
    for level, action in (
        (MeanAbsolute(), Reject(0.0, 1.1, drop=True)),
        (MeanK3(), Reject(0.0, 1.1, drop=True)),
        (TokensInside(1e-4, 1e4), Reject(1.0, math.inf, drop=True)),
    ):
        found = sampler_weight(Correction(level, action), library.array(d), library.array(np.zeros_like(d)), layout)
        assert library.numpy(found.kept).tolist() == [True, False]
