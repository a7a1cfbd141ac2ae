"""What one process does alone, all processes know; and what goes wrong in one of them ends all, none waits."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs.thread_ranks import Threads, on_threads

from integration.options.errors import TrainingFailure, UserError
from integration.shared.interrupt import Abandoned
from integration.shared.ranks import OneProcess, from_first, part_of, shared, together


@given(st.integers(0, 50), st.integers(1, 9))
def test_parts_are_consecutive_and_equal_but_for_one(count: int, ranks: int) -> None:
    parts = [range(count)[part_of(count, Threads(rank, [None] * ranks, threading.Barrier(1)))] for rank in range(ranks)]
    assert [index for part in parts for index in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("items", ["", "a", "abcdefg"])
def test_shared_work_is_the_whole_on_every_process(count: int, items: str) -> None:
    done: list[str] = []

    def work(own: Any) -> list[str]:
        done.extend(own)
        return [letter.upper() for letter in own]

    assert on_threads(count, lambda ranks: shared(ranks, items, work)) == [list(items.upper())] * count
    assert sorted(done) == sorted(items), "nothing is done twice"


@pytest.mark.parametrize(
    "error", [UserError("--x: wrong"), TrainingFailure("not finite"), Abandoned("stop"), ValueError("odd")]
)
@pytest.mark.parametrize("where", [0, 1])
def test_what_one_process_raises_all_raise(error: BaseException, where: int) -> None:
    def work(ranks: Threads) -> Any:
        def own() -> int:
            if ranks.rank == where:
                raise error
            return 1

        return together(ranks, own)

    found = on_threads(2, work)
    assert [type(each) for each in found] == [type(error)] * 2
    assert [str(each) for each in found] == [str(error)] * 2


def test_what_the_first_process_does_is_done_once() -> None:
    calls: list[int] = []

    def work(ranks: Threads) -> Any:
        def own() -> str:
            calls.append(ranks.rank)
            return "made"

        return from_first(ranks, own)

    assert on_threads(3, work) == ["made"] * 3
    assert calls == [0]
    assert from_first(OneProcess(), lambda: 5) == 5
