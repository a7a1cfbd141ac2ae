"""gspo_jax.runs: every tile once and in order, in runs that end where they must; and the ring they work on is held once."""

from __future__ import annotations

from typing import Any

import gspo_jax
import jax
import jax.numpy as jnp
import pytest
from gspo_jax.lm_head import runs
from hypothesis import given
from hypothesis import strategies as st

from gspo_core import GSPO, Packed

LAP = 5
"""Where runs have to end: at multiples of it."""
MANY = 64


@jax.jit
def visited(first: Any, end: Any) -> Any:
    """[MANY] 100 · the turn in which a tile was visited + the length of its run; 0 if it was not."""

    def body(size: int, j: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        turn, found = carry
        here = jax.lax.dynamic_slice_in_dim(found, j, size) + 100 * turn + size
        return turn + 1, jax.lax.dynamic_update_slice_in_dim(found, here, j, 0)

    start = (jnp.int32(1), jnp.zeros(MANY, dtype=jnp.int32))
    return runs.by_runs(first, end, LAP, lambda j: j + LAP - j % LAP, body, start)[1]


@pytest.mark.slow
@given(st.integers(0, MANY), st.integers(0, MANY))
def test_every_tile_is_visited_once_in_order_and_no_run_crosses_a_stop(first: int, end: int) -> None:
    found = [int(x) for x in visited(jnp.int32(first), jnp.int32(end))]
    assert all(x == 0 for j, x in enumerate(found) if not first <= j < end)
    at, turn = first, 1
    while at < end:
        size = found[at] % 100
        assert size > 0, f"tile {at} was left out"
        assert found[at : at + size] == [100 * turn + size] * size  # visited twice, the sums would differ
        assert at // LAP == (at + size - 1) // LAP
        at, turn = at + size, turn + 1
    assert at == max(first, end)


def test_runs_are_as_long_as_they_can_be() -> None:
    """From 3 on: up to the stop at 5, a whole lap, and what is left: 2, 5, then 2 and 1."""
    found = [int(x) % 100 for x in visited(jnp.int32(3), jnp.int32(13))]
    assert found[3:13] == [2, 2, 5, 5, 5, 5, 5, 2, 2, 1]


@pytest.mark.slow
def test_xla_holds_the_ring_once() -> None:
    """XLA copies what it cannot prove to be overwritten in place; its own analysis of the compiled program says so."""
    tokens, hidden, vocabulary, budget = 800, 16, 5200, 2**22
    layout, advantage = Packed(jnp.arange(tokens, dtype=jnp.int32) // 80, tokens // 80), jnp.ones(tokens // 80)

    def value(states: Any, head: Any, ids: Any, old: Any) -> Any:
        rest = (ids, old, advantage, layout)
        return gspo_jax.linear_policy_loss(GSPO, states, head, *rest, budget_bytes=budget).value

    arrays = (jnp.ones((tokens, hidden)), jnp.ones((vocabulary, hidden)), jnp.ones(tokens, dtype=jnp.int32), jnp.ones(tokens))
    program = jax.jit(jax.grad(value, argnums=(0, 1))).lower(*arrays).compile()
    assert 0.75 * budget < program.memory_analysis().temp_size_in_bytes < 1.5 * budget
