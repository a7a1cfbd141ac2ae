"""The processes of one run: what they tell each other, so that all of them take the same decisions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar, cast

from integration.shared.interrupt import Abandoned

T = TypeVar("T")


class Ranks(Protocol):
    """All processes of a run. Every method but `local` is to be called by all of them, in the same order."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0; process 0 writes the run's folder and prints."""

    @property
    def count(self) -> int:
        """Number of processes."""

    local: Callable[[], AbstractContextManager[None]]
    """Around work of this process alone, which a stop may give up."""

    def gather(self, own: Any) -> list[Any]:
        """An object of every process, in the order of their numbers."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any of them."""


class OneProcess:
    """A run of one process."""

    rank, count = 0, 1

    def __init__(self) -> None:
        self.local: Callable[[], AbstractContextManager[None]] = nullcontext

    def gather(self, own: Any) -> list[Any]:
        """Its own object alone."""
        return [own]

    def any(self, flag: bool) -> bool:
        """The flag."""
        return flag


def from_first(ranks: Ranks, work: Callable[[], T]) -> T:
    """What `work` returns in process 0, where alone it is done; an exception there is raised in all processes."""

    def own() -> T | None:
        return work() if ranks.rank == 0 else None

    return cast(T, together(ranks, own)[0])


def together(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """What `work` returns in each process. An exception, or a stop, of one of them is raised in all: none waits for another.

    >>> together(OneProcess(), lambda: 3)
    [3]
    """
    if ranks.count == 1:
        return [work()]
    failure: BaseException | None = None
    result: Any = None
    try:
        with ranks.local():
            result = work()
    except (Exception, Abandoned) as error:
        failure = error
    outcomes = ranks.gather((None if failure is None else (type(failure), str(failure)), result))
    if failure is not None:
        raise failure
    for kind, text in (failed for failed, _ in outcomes if failed is not None):
        raise kind(text)
    return [own for _, own in outcomes]


def shared(ranks: Ranks, items: Sequence[Any], work: Callable[[Sequence[Any]], list[T]]) -> list[T]:
    """`work(items)`, whose elements belong to those of `items`: each process does a part of it.

    >>> shared(OneProcess(), "abc", list)
    ['a', 'b', 'c']
    """
    own = part_of(len(items), ranks)
    return [element for part in together(ranks, lambda: work(items[own]) if items[own] else []) for element in part]


def part_of(count: int, ranks: Ranks) -> slice:
    """The indices of `count` items that are this process's: consecutive, and of all processes equally many, or one less."""
    return slice(count * ranks.rank // ranks.count, count * (ranks.rank + 1) // ranks.count)
