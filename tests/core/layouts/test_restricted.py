"""A restricted layout is the layout whose mask lacks the rejected tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.budgets import assert_close64, assert_same_bits
from support.cases import Batch, Case, batches
from support.libraries import Library

from gspo_core import Packed, Padded, policy_loss, sharded
from gspo_core.layouts import Restricted


@given(batch=batches(), seed=st.integers(0, 2**16))
def test_it_is_the_smaller_mask_bit_by_bit(library: Library, case: Case, batch: Batch, seed: int) -> None:
    """Also with rubbish in the slots that went, and True in `kept` where there was no token."""
    kept = np.random.default_rng(seed).random(batch.mask.shape) < 0.7
    small = batch.mask & kept
    logp, old = (library.array(np.where(small, x, np.nan)) for x in (batch.logp, batch.old_logp))
    adv = library.array(np.where(small.any(axis=1), batch.advantage, np.nan))
    objective = batch.with_clip(case.preset)
    direct, restricted = Padded(library.array(small)), Restricted(Padded(library.array(batch.mask)), library.array(kept))
    a, b = (policy_loss(objective, logp, old, adv, layout) for layout in (direct, restricted))
    for x, y in zip(a[:-1], b[:-1], strict=True):
        assert_same_bits(library.numpy(x), library.numpy(y))
    assert library.numpy(direct.lengths()).tolist() == library.numpy(restricted.lengths()).tolist()
    assert restricted.lengths().dtype == direct.lengths().dtype
    assert restricted.num_sequences == direct.num_sequences


def test_of_a_packed_and_of_a_sharded_layout(library: Library) -> None:
    kept = library.array(np.array([True, False, True, True, False]))
    packed = Restricted(Packed(library.array(np.array([0, 0, 2, -1, 2])), 3), kept)
    assert library.numpy(packed.lengths()).tolist() == [1, 0, 1]
    assert_close64(library.numpy(packed.sum(library.array(np.array([1.0, np.nan, 2.0, np.nan, np.nan])))), [1, 0, 2])
    assert library.numpy(packed.spread(library.array(np.array([5.0, 6.0, 7.0])))).tolist() == [5, 0, 7, 0, 0]
    both = sharded(packed, lambda x: x + x)
    assert library.numpy(both.lengths()).tolist() == [2, 0, 2]


LAYOUT = Padded(np.ones((2, 3), dtype=bool))
WRONG: list[tuple[type[Exception], str, Any, Any]] = [
    (
        TypeError,
        r"^layout: expected a layout such as Padded\(mask\), got ndarray",
        np.ones((2, 3), bool),
        np.ones((2, 3), bool),
    ),
    (TypeError, r"^kept: expected a boolean array, got dtype float64; write kept > 0", LAYOUT, np.ones((2, 3))),
    (ValueError, r"^kept: expected the layout's shape \[2, 3\], got \[2\]", LAYOUT, np.ones(2, bool)),
    (TypeError, r"^kept: expected an array, got list", LAYOUT, [[True]]),
]


@pytest.mark.parametrize(("kind", "sentence", "layout", "kept"), WRONG, ids=[w[1][1:40] for w in WRONG])
def test_wrong_arguments_are_named(kind: type[Exception], sentence: str, layout: Any, kept: Any) -> None:
    with pytest.raises(kind, match=sentence):
        Restricted(layout, kept)
