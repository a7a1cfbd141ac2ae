"""The mask of a trust region in probabilities, token by token and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.cases import Batch
from support.inputs.probabilities import likely
from support.libraries import Library

from gspo_core import Packed, Padded, PerToken
from gspo_core.objectives import BinaryKL, Region, TotalVariation
from gspo_core.selection import inside_region, kept_advantages

REGIONS: list[Region] = [TotalVariation(0.1, 0.25), BinaryKL(0.02, 0.06)]
by_region = pytest.mark.parametrize("region", REGIONS, ids=["TV", "KL"])


def divergence(p: float, q: float) -> float:
    """KL of (p, 1 − p) from (q, 1 − q), as the sum that it is."""
    terms = [(a, b) for a, b in ((p, q), (1 - p, 1 - q)) if a > 0]
    return math.inf if any(b == 0 for _, b in terms) else math.fsum(a * math.log(a / b) for a, b in terms)


def moved(region: Region, logp: float, old: float) -> tuple[int, float]:
    """(1 above, −1 below, 0 inside; distance to the nearest edge)."""
    q, p = math.exp(min(logp, 0.0)), math.exp(min(old, 0.0))
    if isinstance(region, TotalVariation):
        gap = q - p
        edges = min(abs(gap - region.high), abs(gap + region.low))
        return (1 if gap > region.high else -1 if gap < -region.low else 0), edges
    assert isinstance(region, BinaryKL)
    kl, bound = divergence(p, q), region.high if q > p else region.low
    return (1 if q > p else -1) if kl > bound else 0, abs(kl - bound)


def mask_by_hand(region: Any, batch: Batch, advantage: np.ndarray) -> np.ndarray:
    """Token by token; skips batches with a token on an edge."""
    out = np.zeros(batch.mask.shape, dtype=bool)
    for i, t in np.argwhere(batch.mask):
        side, edge = moved(region, batch.logp[i, t], batch.old_logp[i, t])
        assume(edge > 1e-9)
        out[i, t] = side == 0 if region.either_side else side * advantage[i, t] <= 0
    return out


@by_region
@given(batch=likely(), either_side=st.booleans(), per_token=st.booleans())
def test_a_token_is_out_where_its_probability_has_moved_too_far_on_the_advantages_side(
    library: Library, region: Any, batch: Batch, either_side: bool, per_token: bool
) -> None:
    at_tokens = batch.token_advantage if per_token else np.repeat(batch.advantage[:, None], batch.mask.shape[1], axis=1)
    region = replace(region, either_side=either_side)
    wanted = mask_by_hand(region, batch, at_tokens)
    given_ = batch.token_advantage if per_token else batch.advantage
    arrays = [library.array(x) for x in (batch.logp, batch.old_logp, given_)]
    found = inside_region(region, *arrays, Padded(library.array(batch.mask)))
    assert np.array_equal(library.numpy(found), wanted)


def test_a_packed_row_has_the_mask_of_its_tokens(library: Library) -> None:
    new, old = (np.log(np.array(x)) for x in ([0.9, 0.5, 0.1, 0.9], [0.5, 0.5, 0.5, 0.5]))
    ids, advantage = np.array([1, 0, 0, -1]), np.array([-1.0, 1.0])
    layout = Packed(library.array(ids), 2)
    found = inside_region(TotalVariation(), *(library.array(x) for x in (new, old, advantage)), layout)
    assert library.numpy(found).tolist() == [False, True, False, False]


@by_region
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_certain_and_impossible_tokens_are_judged_without_a_warning(library: Library, region: Region, dtype: type) -> None:
    """Probabilities of 0 and 1, and a log-prob above 0 by rounding, which counts as 0."""
    logs = np.array([-np.inf, -np.inf, 0.0, 0.0, 1e-7, 0.0, -np.inf], dtype=dtype)[None, :]
    olds = np.array([0.0, -np.inf, -np.inf, 0.0, 0.0, -1.0, -1.0], dtype=dtype)[None, :]
    ones = np.ones(1, dtype=dtype)
    for advantage, wanted in ((ones, [1, 1, 0, 1, 1, 0, 1]), (-ones, [0, 1, 1, 1, 1, 1, 0])):
        arrays = [library.array(x) for x in (logs, olds, advantage)]
        found = inside_region(region, *arrays, Padded(library.array(np.ones((1, 7), dtype=bool))))
        assert library.numpy(found).astype(int).tolist() == [wanted]


def test_a_token_that_is_not_a_number_stays_so_that_the_loss_shows_it(library: Library) -> None:
    new, old, layout = np.array([[np.nan, -9.0]]), np.array([[-1.0, -0.1]]), Padded(library.array(np.ones((1, 2), dtype=bool)))
    arrays = [library.array(x) for x in (new, old, -np.ones(1))]
    assert library.numpy(inside_region(TotalVariation(), *arrays, layout)).tolist() == [[True, False]]


def test_kept_advantages_are_one_per_token_in_any_layout(library: Library) -> None:
    ids, kept = library.array(np.array([0, 1, 1, -1])), library.array(np.array([True, False, True, True]))
    found = kept_advantages(library.array(np.array([2.0, 3.0])), kept, Packed(ids, 2))
    assert isinstance(found, PerToken)
    assert library.numpy(found.values).tolist() == [2.0, 0.0, 3.0, 0.0]
