"""Ctrl-C is a request, not a crash."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType

from integration.options.streams import write_nowhere


class StopOnSignal:
    """Ctrl-C, SIGTERM and a closed terminal finish the current rollout, save and stop.

    A second Ctrl-C or SIGTERM stops at once, a third without even tidying up.
    """

    def __init__(self) -> None:
        self.requested = False
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        for number, before in self._before.items():
            if before != signal.SIG_IGN:  # such as SIGHUP under nohup
                signal.signal(number, self._handle)

    def leave(self) -> None:
        """Signals do again what they did before."""
        for number, before in self._before.items():
            signal.signal(number, before)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            write_nowhere(*self._terminals)  # writing to a closed terminal is an error, which would end the run unsaved
        elif self.requested:
            signal.signal(signal.SIGINT, lambda *_: os._exit(130))
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.requested = True
        with suppress(OSError):  # not by `print`, in the middle of which this may be
            os.write(2, b"\nfinishing this rollout, then saving; once more to stop at once\n")
