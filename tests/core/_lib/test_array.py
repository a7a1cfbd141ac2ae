"""Selecting with a mask keeps every bit, also of numbers that a multiplication by 0 would not turn into 0."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gspo_core._lib.array import namespace, where_true

SPECIAL = [0.0, -0.0, 1.0, -1.5, 5e-324, 1e-40, 3e38, np.inf, -np.inf, np.nan, -np.nan]


@given(st.data(), st.sampled_from([np.float32, np.float64]))
def test_selecting_by_bits_is_where(data: st.DataObject, dtype: type) -> None:
    """Bitwise, broadcast and strided, whatever the numbers are."""
    rows, columns = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 5))
    with np.errstate(over="ignore"):
        values = np.array(data.draw(st.lists(st.sampled_from(SPECIAL), min_size=40, max_size=40)), dtype=dtype)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=20, max_size=20)), dtype=bool)[: rows * columns]
    mask = mask.reshape(rows, columns)
    token, sequence = values[: 2 * rows * columns : 2].reshape(rows, columns), values[:rows, None]
    for x in (token, sequence, token[::-1]):
        chosen = where_true(namespace(x=x), mask, x)
        assert chosen.dtype == dtype
        assert chosen.tobytes() == np.where(mask, x, dtype(0)).tobytes()


def test_the_special_numbers_would_show_a_multiplication() -> None:
    with np.errstate(invalid="ignore"):
        product = np.array(SPECIAL) * np.zeros(len(SPECIAL))
    assert np.isnan(product).any()
    assert np.signbit(product[:4]).any()
