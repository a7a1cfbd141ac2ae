"""Entropy and the divergence from a reference, merged from any parts, are scalar means over the tokens of the whole."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.budgets import assert_same_bits, assert_within
from support.draws import at_most
from support.libraries import Library
from support.oracles.kl import k3

from gspo_core import Padded, merge, summary
from gspo_core.metrics import entropy_metrics, reference_metrics


@at_most(10)
@given(seed=st.integers(0, 2**16), cap=st.sampled_from([None, 0.1, 1.0]), cut=st.integers(0, 6))
def test_merged_parts_are_the_scalar_means_of_the_whole(library: Library, seed: int, cap: float | None, cut: int) -> None:
    """With NaN in masked slots; counts to the bit, in either order of the parts."""
    rng = np.random.default_rng(seed)
    mask = rng.random((6, 4)) < 0.7
    logp, ref, entropy = (np.where(mask, x, np.nan) for x in rng.normal(size=(3, 6, 4)))

    def part(rows: slice) -> list:
        a, b, h, layout = (*(library.array(x[rows]) for x in (logp, ref, entropy)), Padded(library.array(mask[rows])))
        return [entropy_metrics(h, layout), reference_metrics(a, b, layout, cap=cap)]

    one, two = part(slice(0, cut)), part(slice(cut, 6))
    whole, merged, turned = merge(*part(slice(0, 6))), merge(*one, *two), merge(*two, *one)
    for other in (merged, turned):
        assert_same_bits(library.numpy(whole.counts), library.numpy(other.counts))
    found, tokens = summary(merged), int(mask.sum())
    if not tokens:
        assert found == {}
        return
    bound = math.inf if cap is None else cap
    x = [float(r - p) for r, p in zip(ref[mask], logp[mask], strict=True)]
    near = [min(max(y, -bound), bound) for y in x]
    expected = {
        "entropy_per_token": math.fsum(entropy[mask]) / tokens,
        "reference_kl_k1_per_token": -math.fsum(near) / tokens,
        "reference_kl_k3_per_token": math.fsum(map(k3, near)) / tokens,
        "reference_kl_capped": sum(abs(y) > bound for y in x) / tokens,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_within(found[name], value, 1e-12 * (1 + abs(value)))


def test_with_a_cap_an_excluded_token_is_counted_and_finite(library: Library) -> None:
    ref = library.array(np.array([[-1.0, -math.inf]]))
    found = summary(
        reference_metrics(library.array(np.full((1, 2), -1.0)), ref, Padded(library.array(np.full((1, 2), True))), cap=10.0)
    )
    assert found["reference_kl_capped"] == 0.5
    assert found["reference_kl_k1_per_token"] == 5.0
