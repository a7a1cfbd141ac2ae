"""Columns are shared out whole: each to one rank, in pieces of one length, and with equal work in zig-zag."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from integration.on_torch.parallel.columns import Columns

SHARED = st.builds(Columns, width=st.integers(1, 50), ranks=st.integers(1, 9), zigzag=st.booleans())


@given(SHARED)
def test_each_column_is_on_one_rank(columns: Columns) -> None:
    held = [int(column) for rank in range(columns.ranks) for column in columns.of(rank)]
    assert sorted(held) == list(range(columns.padded))
    assert columns.width <= columns.padded < columns.width + columns.count


@given(SHARED)
def test_put_in_order_the_ranks_columns_are_the_batch(columns: Columns) -> None:
    held = torch.cat([columns.of(rank) for rank in range(columns.ranks)])
    assert held[columns.order()].tolist() == list(range(columns.padded))


@given(SHARED)
def test_a_piece_is_neighbouring_columns(columns: Columns) -> None:
    for rank in range(columns.ranks):
        pieces = columns.pieces(rank)
        assert [list(range(p.start, p.stop)) for p in pieces] == [
            chunk.tolist() for chunk in columns.of(rank).split(columns.length)
        ]


@given(st.integers(1, 50), st.integers(2, 9))
def test_in_zig_zag_all_ranks_look_at_equally_many_columns(width: int, ranks: int) -> None:
    def work(zigzag: bool) -> list[int]:
        columns = Columns(width, ranks, zigzag)
        return [sum(piece.length * piece.stop for piece in columns.pieces(rank)) for rank in range(ranks)]

    assert len(set(work(True))) == 1
    assert len(set(work(False))) == ranks
