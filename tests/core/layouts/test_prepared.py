"""A prepared layout has the numbers of its own layout, counted once; a layout around shards finds this rank's part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gspo_core import Packed, Padded, Turns, sharded
from gspo_core.layouts import Layout, Restricted
from gspo_core.layouts.prepared import Prepared, prepared

MASK = np.array([[True, True, False], [True, False, False], [False, False, False], [True, True, True]])
KEPT = np.array([[True, False, True]] * 4)
TURN_IDS = np.array([[0, 1, 1], [1, -1, 0], [0, 0, 0], [0, -1, 1]])
VALUES = np.arange(12.0).reshape(4, 3) - 4.5


def doubled(x: np.ndarray) -> np.ndarray:
    """Another rank with the same numbers."""
    return 2 * x


PADDED = Padded(MASK)
TURNS = Turns(PADDED, TURN_IDS, 2)
LAYOUTS: dict[str, Layout] = {
    "padded": PADDED,
    "packed": Packed(np.where(MASK, np.arange(4)[:, None], -1).reshape(-1), 4),
    "restricted": Restricted(PADDED, KEPT),
    "turns": TURNS,
    "restricted turns": Restricted(TURNS, KEPT),
    "sharded": sharded(PADDED, doubled),
    "sharded turns": sharded(TURNS, doubled),
    "turns of shards": Turns(sharded(PADDED, doubled), TURN_IDS, 2),
    "restricted shards": Restricted(sharded(PADDED, doubled), KEPT),
}
everywhere = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def members(layout: Layout, dtype: Any) -> dict[str, Any]:
    """Everything that a layout answers."""
    x, like = VALUES.reshape(layout.shape).astype(dtype), np.zeros((), dtype=dtype)
    per_sequence = np.arange(1.0, layout.num_sequences + 1).astype(dtype)
    return {
        "xp": layout.xp,
        "shape": layout.shape,
        "num_sequences": layout.num_sequences,
        "valid": layout.valid,
        "lengths": layout.lengths(),
        "select": layout.select(x),
        "sum": layout.sum(x),
        "spread": layout.spread(per_sequence),
        "non_empty": layout.non_empty(),
        "safe_lengths": layout.safe_lengths(like),
        "sum_selected": layout.sum_selected(layout.select(x)),
        "sum_all_slots": layout.sum_all_slots(layout.select(x)),
    }


def assert_same(mine: Layout, theirs: Layout, dtype: Any) -> None:
    """Every member, in dtype and number; of the turns, too."""
    a, b = members(mine, dtype), members(theirs, dtype)
    for name in a:
        assert np.array_equal(a[name], b[name]), name
        assert getattr(a[name], "dtype", None) == getattr(b[name], "dtype", None), name
    assert (mine.turns is None) == (theirs.turns is None)
    if mine.turns is not None and theirs.turns is not None:
        assert mine.turns.count == theirs.turns.count
        assert_same(mine.turns.each, theirs.turns.each, dtype)


@everywhere
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("asked", [np.float32, np.float64])
def test_a_prepared_layout_answers_as_its_own(layout: Layout, dtype: Any, asked: Any) -> None:
    """Also in another dtype than the one it was prepared for."""
    assert_same(prepared(layout, np.zeros((), dtype=dtype)), layout, asked)


class Counting(Padded):
    """Counts how often its lengths are looked up."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "calls", [])

    def lengths(self) -> Any:
        self.calls.append("lengths")  # type: ignore[attr-defined]  # the class of this test counts calls
        return super().lengths()


def test_lengths_are_counted_once() -> None:
    layout, like = Counting(MASK), np.zeros(())
    once = prepared(layout, like)
    for _ in range(3):
        once.lengths(), once.non_empty(), once.safe_lengths(like)
    assert layout.calls == ["lengths"]  # type: ignore[attr-defined]  # the class of this test counts calls
    assert prepared(once, like) is once
    other = prepared(once, np.zeros((), dtype=np.float32))
    assert isinstance(other, Prepared)
    assert other.safe_lengths(np.zeros((), dtype=np.float32)).dtype == np.float32
    assert layout.calls == ["lengths"]  # type: ignore[attr-defined]  # the class of this test counts calls


def test_shards_exchange_nothing_more() -> None:
    exchanged = []

    def summed(x: Any) -> Any:
        exchanged.append(tuple(x.shape))
        return x

    layout = sharded(Turns(Padded(torch.tensor(MASK)), torch.tensor(TURN_IDS), 2), summed)
    assert exchanged == [(4,), (8,)]  # lengths of the sequences, then of their turns
    once = prepared(layout, torch.zeros(()))
    once.safe_lengths(torch.zeros(()))
    assert once.turns is not None
    once.turns.each.safe_lengths(torch.zeros(()))
    assert len(exchanged) == 2
    once.sum_selected(torch.zeros(4, 3))
    assert exchanged[2:] == [(4,)]


# ---- this rank's part


def test_the_part_of_a_shard_is_found_however_deep_it_is() -> None:
    assert sharded(PADDED, doubled).local is PADDED
    assert sharded(sharded(PADDED, doubled), doubled).local is PADDED
    wraps = (
        lambda x: Restricted(x, KEPT),
        lambda x: Turns(x, TURN_IDS, 2),
        lambda x: Restricted(Turns(x, TURN_IDS, 2), KEPT),
        lambda x: prepared(x, np.zeros(())),
    )
    for around in wraps:
        alone, shared = around(PADDED), around(sharded(PADDED, doubled))
        assert np.array_equal(shared.lengths(), 2 * alone.lengths())
        assert np.array_equal(shared.local.lengths(), alone.lengths())


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_its_own_part_unless_there_are_shards(name: str) -> None:
    layout, once = LAYOUTS[name], prepared(LAYOUTS[name], np.zeros(()))
    assert (layout.local is layout) == (once.local is once) == ("shard" not in name)
