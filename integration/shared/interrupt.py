"""Ctrl-C is a request, not a crash."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


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
            self._leave_terminal()
        elif self.requested:
            signal.signal(signal.SIGINT, lambda *_: os._exit(130))
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.requested = True
        print("\nfinishing this rollout, then saving; once more to stop at once", file=sys.stderr, flush=True)

    def _leave_terminal(self) -> None:
        """Print nowhere from now on: writing to a closed terminal is an error, which would end the run unsaved."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in self._terminals:
            os.dup2(nowhere, stream)
        os.close(nowhere)
