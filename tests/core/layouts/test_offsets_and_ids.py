"""Offsets and ids are honoured in every integer dtype, or refused: never read as something else."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.libraries import EAGER, JAX, Library, on_every_library

from gspo_core import GSPO, Packed, Padded, Turns, batch_metrics, policy_loss, summary
from gspo_core.layouts import next_tokens

DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
by_dtype = pytest.mark.parametrize("dtype", DTYPES)


def owner(cu: list[int], slot: int) -> int:
    """The segment of a slot, −1 for none: one comparison after another."""
    return next((i for i in range(len(cu) - 1) if cu[i] <= slot < cu[i + 1]), -1)


@st.composite
def offsets(draw: st.DrawFn) -> tuple[list[int], int]:
    """(any list of offsets, ascending or not, T)."""
    cu = draw(st.lists(st.integers(-2, 12), min_size=1, max_size=5))
    return (sorted(cu) if draw(st.booleans()) else cu), draw(st.integers(0, 14))


@pytest.mark.parametrize("library", [x for x in EAGER if x is not JAX], ids=lambda library: library.name)
@settings(max_examples=25)
@given(case=offsets())
def test_offsets_are_honoured_or_refused(library: Library, case: tuple[list[int], int]) -> None:
    cu, num_tokens = case
    right = cu[0] >= 0 and cu[-1] <= num_tokens and cu == sorted(cu)
    given_ = library.array(np.array(cu))
    if not right:
        with pytest.raises(ValueError, match=r"^cu_seqlens: expected offsets that ascend from 0 or more to at most num_tokens"):
            Packed.from_cu_seqlens(given_, num_tokens)
        return
    packed = Packed.from_cu_seqlens(given_, num_tokens)
    assert library.numpy(packed.segment_ids).tolist() == [owner(cu, slot) for slot in range(num_tokens)]


@on_every_library
@by_dtype
def test_offsets_of_every_dtype_reach_any_slot(library: Library, dtype: str) -> None:
    """300 slots, more than a byte can number; the rest of the row holds nothing."""
    cu = [3, 100, 100, 120]
    packed = Packed.from_cu_seqlens(library.array(np.array(cu, dtype=dtype)), 300)
    assert library.numpy(packed.lengths()).tolist() == [97, 0, 20]
    assert library.numpy(packed.segment_ids).tolist() == [owner(cu, slot) for slot in range(300)]
    row = next_tokens(
        library.array(np.arange(300)),
        library.array(np.array(cu, dtype=dtype)),
        prompt_lengths=library.array(np.array([90, 0, 9], dtype=dtype)),
    )
    assert library.numpy(row.layout.lengths()).tolist() == [7, 0, 11]


@on_every_library
@by_dtype
def test_ids_of_every_dtype_count_and_sum(library: Library, dtype: str) -> None:
    """Also where there are more sequences than the dtype has numbers, and where no number of it is negative."""
    ids = np.array([0, 1, 1, np.iinfo(dtype).max, 2], dtype=dtype)
    num = min(200, int(np.iinfo(dtype).max))
    packed = Packed(library.array(ids), num)
    assert library.numpy(packed.lengths())[:4].tolist() == [1, 2, 1, 0]
    assert int(library.numpy(packed.lengths()).sum()) == (4 + (np.iinfo(dtype).max < num))
    x = library.array(np.arange(1.0, 6.0))
    assert library.numpy(packed.sum(x))[:3].tolist() == [1.0, 5.0, 5.0]
    assert library.numpy(packed.spread(packed.sum(x))).tolist() == [1.0, 5.0, 5.0, 0.0, 5.0]


@on_every_library
@by_dtype
def test_turn_ids_of_every_dtype_number_the_turns_of_all_sequences(library: Library, dtype: str) -> None:
    """60 sequences of 5 turns: 300 of them."""
    turns = np.tile(np.array([0, 0, 4, 2], dtype=dtype), (60, 1))
    layout = Turns(Padded(library.array(np.ones((60, 4), dtype=bool))), library.array(turns), 5)
    assert library.numpy(layout.turns.each.lengths()).tolist() == [2, 0, 1, 0, 1] * 60


@jax.jit
def traced_ids(cu: Any) -> Any:
    """Of eight slots and three segments, from offsets that cannot be read."""
    return Packed.from_cu_seqlens(cu, 8).segment_ids


@settings(max_examples=60)
@given(cu=st.lists(st.integers(-2, 10), min_size=4, max_size=4), ascending=st.booleans())
def test_traced_offsets_are_honoured_or_hold_no_token(cu: list[int], ascending: bool) -> None:
    """They need not begin at 0; wrong ones are never read as other segments."""
    cu = sorted(cu) if ascending else cu
    right = cu[0] >= 0 and cu[-1] <= 8 and cu == sorted(cu)
    expected = [owner(cu, slot) if right else -1 for slot in range(8)]
    assert traced_ids(np.array(cu, dtype=np.int32)).tolist() == expected


def test_a_loss_of_wrong_traced_offsets_is_zero_and_counted_as_empty() -> None:
    @jax.jit
    def measured(cu: Any, x: Any) -> Any:
        layout = Packed.from_cu_seqlens(cu, 4)
        batch = (x + 0.1, x, jax.numpy.ones(2), layout)
        loss = policy_loss(GSPO, *batch)
        return loss.value, loss.logp_grad, batch_metrics(GSPO, loss, *batch)

    value, weight, metrics = measured(np.array([0, 3, 2]), np.zeros(4, dtype=np.float32))
    assert (float(value), weight.tolist()) == (0.0, [0.0] * 4)
    assert summary(metrics) == {"empty_sequences": 2}
