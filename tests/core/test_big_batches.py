"""Counts, lengths, denominators and ids of big batches neither overflow nor lose integers, and parts add up to the whole."""

from __future__ import annotations

from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gspo_core import GSPO, Packed, Padded, Turns, group_metrics, merge, policy_loss, summary
from gspo_core.layouts import Restricted
from gspo_core.objectives import DAPO, FixedLength

pytestmark = pytest.mark.slow

LONG = 2**24 + 5
"""Tokens of one sequence, more than a float32 can count."""
TOKENS = 5_000_000


def test_a_count_beyond_int32_is_right_in_jax() -> None:
    """Without x64; eager and compiled. One that fits stays an integer."""
    for length, num in ((131_072, 16_384), (3_001, 10_001), (2**31, 2)):
        layout = Padded(jnp.ones((num, 1), dtype=bool))
        for count in (FixedLength(length).count(layout), jax.jit(lambda n=length, x=layout: FixedLength(n).count(x))()):
            assert int(count) == pytest.approx(length * num, rel=2**-24)
            assert (count.dtype == jnp.int32) == (length * num < 2**31)
            assert count.dtype == jnp.float32 or int(count) == length * num


def test_a_loss_over_such_a_count_is_right_in_jax() -> None:
    """Every token 1/count: the value is −(tokens)/count, its weight −1/count."""
    layout = Padded(jnp.ones((16_384, 1), dtype=bool))
    objective = type(GSPO)(GSPO.ratio, GSPO.surrogate, FixedLength(131_072))
    zeros = jnp.zeros((16_384, 1))
    loss = gspo_jax.policy_loss(objective, zeros, zeros, jnp.ones(16_384), layout)
    assert float(loss.value) == -(2.0**-17)
    assert float(loss.logp_grad[0, 0]) == -(2.0**-31)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_a_sequence_longer_than_a_float32_counts_has_its_length(array: Any) -> None:
    """Restricted: its lengths are counted as sums of the layout inside, which are floats; likewise with turns."""
    whole = Packed(array(np.zeros(LONG, dtype=np.int32)), 1)
    kept = np.ones(LONG, dtype=bool)
    kept[-2:] = False
    assert int(Restricted(whole, array(kept)).lengths()[0]) == LONG - 2


def test_turns_of_more_sequences_than_a_float32_counts_are_told_apart() -> None:
    ids = np.arange(LONG, dtype=np.int32)
    each = Turns(Packed(ids, LONG), np.zeros(LONG, dtype=np.int8), 1).turns.each
    assert np.array_equal(each.layout.segment_ids, ids)


def test_counts_that_overflow_when_merged_are_refused() -> None:
    """Under JAX without x64, however often they are merged afterwards: a wrong number is never shown."""
    half = group_metrics(jnp.array([1.0]), jnp.array([3]))
    half = half._replace(counts=half.counts * (2**30 + 1))
    assert summary(half)["groups"] == 2**30 + 1
    whole = merge(half, half)
    for _ in range(3):
        with pytest.raises(ValueError, match=r"^metrics: expected counts that fit into int32, got one that overflowed"):
            summary(whole)
        whole = merge(whole, half)


@pytest.mark.parametrize("objective", [GSPO, DAPO], ids=["GSPO", "DAPO"])
def test_parts_of_a_hundred_thousand_sequences_add_up(objective: Any) -> None:
    """Float32, unequal lengths, against the whole and against float64. TOKENS = 5·10⁷ passes as well, in a minute each."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(30, 51, size=100_000)
    lengths[-1] += TOKENS - lengths.sum()
    starts = np.concatenate([[0], np.cumsum(lengths)])
    d, advantage = (1e-4 * rng.standard_normal(n, dtype=np.float32) for n in (TOKENS, 100_000))
    total = TOKENS if objective is DAPO else 100_000

    def part(first: int, last: int, denominator: Any) -> Any:
        tokens = slice(starts[first], starts[last])
        layout = Packed.from_cu_seqlens(starts[first : last + 1] - starts[first], int(starts[last] - starts[first]))
        given = (d[tokens], np.zeros_like(d[tokens]), advantage[first:last], layout)
        loss = policy_loss(objective, *given, denominator=denominator)
        return float(loss.value), int(objective.count(layout)), float(loss.logp_grad[0])

    value, count, weight = part(0, 100_000, None)
    parts = [part(k, k + 10_000, np.int64(total)) for k in range(0, 100_000, 10_000)]
    assert count == sum(n for _, n, _ in parts) == total
    scale = float(np.abs(advantage.astype(np.float64)).mean())
    assert sum(v for v, _, _ in parts) == pytest.approx(value, abs=1e-6 * scale)
    assert parts[0][2] == weight
    wide = d.astype(np.float64)
    if objective is GSPO:
        log_s = np.add.reduceat(wide, starts[:-1]) / lengths
        exact = -(np.exp(log_s) * advantage).sum() / total  # |log s| is below 3e-5: nothing is clipped
    else:
        exact = -(np.exp(wide) * np.repeat(advantage.astype(np.float64), lengths)).sum() / total
    assert value == pytest.approx(exact, abs=1e-5 * scale)
