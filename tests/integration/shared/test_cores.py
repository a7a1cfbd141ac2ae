"""A run takes the cores that are free when it begins, and says so, once, if others take them later."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integration.shared import cores
from integration.shared.cores import Neighbours, crowded, free_cores, idle_of, usable_cores

Times = namedtuple("Times", "user system idle iowait")


@given(busy=st.lists(st.floats(0.0, 100.0), min_size=1, max_size=64))
def test_idle_cores_are_never_more_than_there_are_and_never_none(busy: list[float]) -> None:
    idle = idle_of(busy)
    assert 1 <= idle <= len(busy)
    assert idle_of([*busy, 0.0]) >= idle, "one more idle core takes none away"
    assert idle_of([100.0] * len(busy)) == 1
    assert idle_of([0.0] * len(busy)) == len(busy)


def test_only_the_cores_of_this_process_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of the machine may be as idle as they like."""
    monkeypatch.setattr(cores, "usable_cores", lambda: [1, 3])
    monkeypatch.setattr(cores.psutil, "cpu_percent", lambda **_: [0.0, 99.0, 0.0, 2.0])
    assert free_cores() == 1
    monkeypatch.setattr(cores.psutil, "cpu_percent", lambda **_: [100.0, 1.0, 100.0, 2.0])
    assert free_cores() == 2


def test_cores_are_counted_without_affinity_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows."""
    monkeypatch.delattr(cores.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 3)
    assert usable_cores() == [0, 1, 2]


@given(total=st.integers(1, 64), threads=st.integers(1, 64), others=st.floats(0.0, 64.0))
def test_the_advice_is_never_more_threads_and_is_given_only_where_cores_lack(total: int, threads: int, others: float) -> None:
    line = crowded(total, threads, others)
    if threads + others <= total:
        assert line is None
    if line is not None:
        assert 1 <= int(line.rpartition(" ")[2]) < threads


@pytest.mark.parametrize(("own", "said"), [(1.9, False), (0.8, True)])
def test_what_the_run_itself_uses_is_no_neighbour(monkeypatch: pytest.MonkeyPatch, own: float, said: bool) -> None:
    """Two cores busy all the time: with the run, or with somebody else. Said once, after a while."""
    clock = {"now": 0.0}

    def times(**_: Any) -> list[Times]:
        return [Times(clock["now"], 0.0, 0.0, 0.0)] * 2

    monkeypatch.setattr(cores, "usable_cores", lambda: [0, 1])
    monkeypatch.setattr(cores.psutil, "cpu_times", times)
    monkeypatch.setattr(cores.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(cores.time, "process_time", lambda: own * clock["now"])
    watching, alone = Neighbours(2), Neighbours(1)
    lines = []
    for now in (5.0, 30.0, 60.0):
        clock["now"] = now
        lines.append(watching.after_rollout())
        assert alone.after_rollout() is None
    assert [line is not None for line in lines] == [False, said, False]
    if said:
        assert "take 1.2 of the 2 cores" in str(lines[1])
