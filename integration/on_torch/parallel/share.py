"""Which responses of a mini-batch each process runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """The part of each mini-batch that is this process's; processes that share a response's tokens or the head have one."""

    index: int = 0
    count: int = 1


def share_out(costs: list[int], count: int) -> list[list[int]]:
    """Indices of `costs` for each of `count` processes: the costliest first, each to the process with the least so far.

    The sums differ by at most the largest cost. A process may have nothing.

    Source: Graham, Bounds on multiprocessing timing anomalies, 1969 (longest processing time first: at most 4/3 of the best).

    >>> share_out([5, 3, 3, 2, 1], 2)
    [[0, 3], [1, 2, 4]]
    >>> share_out([7], 3)
    [[0], [], []]
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    sums = [0] * count
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = min(range(count), key=lambda rank: (sums[rank], len(parts[rank]), rank))
        parts[least].append(index)
        sums[least] += costs[index]
    return [sorted(part) for part in parts]
