"""The CPU's cores: how many are free when a run begins, and whether other programs take them from it later.

Two threads wait for each other at the end of every product. If another program has the core of one of them, both are several
times slower than one thread alone.
"""

from __future__ import annotations

import os
import time

import psutil

SETTLED = 20.0
"""Seconds of rollouts after which the run's neighbours are looked at."""


def usable_cores() -> list[int]:
    """The cores on which this process may run."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return sorted(allowed(0)) if allowed is not None else list(range(os.cpu_count() or 1))


def free_cores(seconds: float = 0.5) -> int:
    """How many of them other programs leave idle, measured for so long; at least 1."""
    busy = psutil.cpu_percent(interval=seconds, percpu=True)
    return idle_of([busy[core] for core in usable_cores() if core < len(busy)])


def idle_of(busy: list[float]) -> int:
    """Cores that are idle, given how busy each is, in percent; at least 1.

    >>> idle_of([3.0, 5.0]), idle_of([100.0, 12.0]), idle_of([100.0, 90.0]), idle_of([40.0, 0.0, 40.0, 100.0])
    (2, 1, 1, 2)
    """
    return max(1, int(sum(1.0 - share / 100.0 for share in busy) + 0.25))


class Neighbours:
    """Watches how much of the CPU goes to other programs while the run's threads need it."""

    def __init__(self, threads: int) -> None:
        self._threads, self._said = threads, False
        self._cores = usable_cores()
        self._began = self._now()

    def after_rollout(self) -> str | None:
        """One line, once, if the run shares its cores; None otherwise."""
        if self._said or self._threads == 1:
            return None
        seconds, busy, own = (now - before for now, before in zip(self._now(), self._began, strict=True))
        if seconds < SETTLED:
            return None
        self._said = True
        return crowded(len(self._cores), self._threads, max(0.0, busy - own) / seconds)

    def _now(self) -> tuple[float, float, float]:
        """(the clock, seconds that the usable cores were busy, seconds of CPU that this process had)."""
        times = psutil.cpu_times(percpu=True)
        busy = sum(sum(times[core]) - times[core].idle - getattr(times[core], "iowait", 0.0) for core in self._cores)
        return time.monotonic(), busy, time.process_time()


def crowded(cores: int, threads: int, others: float) -> str | None:
    """The line about `others`, cores' worth of time that other programs take, or None if there is room for all.

    >>> crowded(2, 2, 0.1)
    >>> crowded(2, 2, 1.2)
    'other programs take 1.2 of the 2 cores, and threads that wait for each other are slow: stop, and --resume with --threads 1'
    """
    left = max(1, int(cores - others + 0.25))
    if threads <= left:
        return None
    return (
        f"other programs take {others:.1f} of the {cores} cores, and threads that wait for each other are slow: stop, and "
        f"--resume with --threads {left}"
    )
