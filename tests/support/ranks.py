"""Ranks of one process: as threads, or one after another where what runs is traced or has settings of its own thread (JAX)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Sum = Callable[[Any], Any]


class Ranks:
    """Ranks as threads, and an all-reduce between them that keeps account of what is exchanged."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.exchanged: list[tuple[int, ...]] = []
        self._barrier = threading.Barrier(count, timeout=60)
        self._parts: list[Any] = [None] * count

    def all_reduce(self, rank: int) -> Callable[[Any], Any]:
        """The sum over ranks, for one of them."""

        def reduce(x: Any) -> Any:
            self._parts[rank] = x
            self._barrier.wait()
            total = self._parts[0]
            for part in self._parts[1:]:
                total = total + part
            if rank == 0:
                self.exchanged.append(tuple(x.shape))
            self._barrier.wait()
            return total

        return reduce

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """`work(rank)` on all ranks at once."""
        with ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(work, range(self.count)))


class _Waiting(Exception):
    """A rank has handed in its part of a sum that is not known yet."""

    def __init__(self, part: Any) -> None:
        self.part = part


def on_all_ranks(work: list[Callable[[Sum], Any]]) -> tuple[list[Any], list[list[Any]]]:
    """(what each rank returns, [k][rank]: what each hands to the k-th sum); `work[rank]` gets the sum over ranks as a function.

    Ranks run one after another, again and again, each time up to the first sum that is not known yet.
    """
    known: list[list[Any]] = []
    while True:
        results, parts = [], []
        for one_rank in work:
            sums = iter([sum(parts[1:], parts[0]) for parts in known])

            def total(x: Any, sums: Any = sums) -> Any:
                for found in sums:
                    return found
                raise _Waiting(x)

            try:
                results.append(one_rank(total))
            except _Waiting as waiting:
                parts.append(waiting.part)
        if not parts:
            return results, known
        known.append(parts)
