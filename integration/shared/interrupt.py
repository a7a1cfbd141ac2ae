"""Ctrl-C is a request, not a crash."""

from __future__ import annotations

import signal
import sys
from typing import Any


class StopOnSignal:
    """Ctrl-C and SIGTERM finish the current rollout, save and stop; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: Any) -> None:
        self.requested = True
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        print("\nfinishing this rollout, then saving; once more to stop at once", file=sys.stderr, flush=True)
