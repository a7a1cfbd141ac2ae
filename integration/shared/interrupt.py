"""Ctrl-C is a request, not a crash: what changes no weights is given up at once, and a rollout's updates are finished."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from integration.options.streams import write_nowhere

if TYPE_CHECKING:
    from integration.shared.ranks import Ranks


class Abandoned(BaseException):
    """A stop was asked for while nothing was under way that a checkpoint would need. No error, so that no handler takes it."""


class Stopping(Protocol):
    """The view of a rollout on the signals."""

    def asked(self) -> bool:
        """Whether a stop was asked for, in any of the run's processes; to be called in all of them."""

    def finish(self) -> None:
        """From here on a stop waits; to be called before the first optimizer step."""


class Never:
    """No stop is ever asked for."""

    def asked(self) -> bool:
        """No."""
        return False

    def finish(self) -> None:
        """Nothing waits."""


NEVER = Never()


class StopOnSignal:
    """Ctrl-C, SIGTERM and a closed terminal save and stop: at once where work may be given up, else when it is finished.

    A second Ctrl-C or SIGTERM stops at once, a third without even tidying up.

    Of a run of several processes one may be asked before the others: then each gives up only work of its own, and all agree
    to stop when they next exchange something (`Ranks.local`, `asked`).
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        self.requested = False
        self._ranks = ranks if ranks is not None and ranks.count > 1 else None
        self._loose = False
        if self._ranks is not None:
            self._ranks.local = self._local
        self._may_give_up = False
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for number, before in self._before.items():
            if before != signal.SIG_IGN:  # such as SIGHUP under nohup
                signal.signal(number, self._handle)

    def leave(self) -> None:
        """Signals do again what they did before."""
        for number, before in self._before.items():
            signal.signal(number, before)

    def asked(self) -> bool:
        """Whether a stop was asked for, in any of the run's processes; to be called in all of them."""
        if self._ranks is not None:
            self.requested = self._ranks.any(self.requested)
        return self.requested

    @contextmanager
    def giving_up(self) -> Iterator[None]:
        """Inside, a stop raises Abandoned: for sampling and evaluations, which change no weights."""
        if self.asked():
            raise Abandoned
        self._loose, self._may_give_up = True, self._ranks is None
        try:
            yield
        finally:
            self.finish()

    def finish(self) -> None:
        """Inside `giving_up`: from here to its end a stop waits. To be called before the first optimizer step."""
        self._loose = self._may_give_up = False

    @contextmanager
    def _local(self) -> Iterator[None]:
        """Work of this process alone, inside `giving_up`, which a stop may give up."""
        if self._loose and self.requested:
            raise Abandoned
        self._may_give_up = self._loose
        try:
            yield
        finally:
            self._may_give_up = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            write_nowhere(*self._terminals)  # writing to a closed terminal is an error, which would end the run unsaved
        elif self.requested:
            signal.signal(signal.SIGINT, lambda *_: os._exit(130))
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.requested = True
        what = b"stopping" if self._may_give_up else b"finishing what is under way, then saving; once more to stop at once"
        if self._ranks is None or self._ranks.rank == 0:
            with suppress(OSError):  # not by `print`, in the middle of which this may be
                os.write(2, b"\n" + what + b"\n")
        if self._may_give_up:
            self._may_give_up = False
            raise Abandoned
