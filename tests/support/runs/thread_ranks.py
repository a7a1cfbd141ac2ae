"""Processes of a run that are threads, for tests of what they tell each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from integration.shared.interrupt import Abandoned


class Threads:
    """Ranks that are threads, and wait for each other at most five seconds."""

    def __init__(self, rank: int, board: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.count = rank, len(board)
        self.local: Any = nullcontext
        self._board, self._barrier = board, barrier

    def gather(self, own: Any) -> list[Any]:
        self._board[self.rank] = own
        self._barrier.wait(5)
        found = list(self._board)
        self._barrier.wait(5)
        return found

    def any(self, flag: bool) -> bool:
        return any(self.gather(flag))


def on_threads(count: int, work: Callable[[Threads], Any]) -> list[Any]:
    """What `work` returns, or raises, on each of them."""
    board: list[Any] = [None] * count
    barrier = threading.Barrier(count)

    def one(rank: int) -> Any:
        try:
            return work(Threads(rank, board, barrier))
        except (Exception, Abandoned) as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))
