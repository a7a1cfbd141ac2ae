"""In place of `subprocess` in integration/rewards/worker.py: the first process that judges a run's answers is its fork.

It is forked before the run has begun, so that it has imported what judges need and nothing else has happened in it.
"""

from __future__ import annotations

import os
import subprocess
import warnings
from typing import Any

from integration.rewards.server import main

PIPE = subprocess.PIPE
_WAITING: list[Forked] = []


class Forked:
    """As `subprocess.Popen` of the worker's program."""

    def __init__(self) -> None:
        (its_input, ours_out), (ours_in, its_output) = os.pipe(), os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX minds any fork; it has started no thread yet
            self._pid = os.fork()
        if self._pid == 0:
            try:
                _judge(its_input, its_output, ours_out, ours_in)
            finally:
                os._exit(0)
        os.close(its_input)
        os.close(its_output)
        self.stdin, self.stdout = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self._ended = False

    def poll(self) -> int | None:
        """0 when it has ended; None while it runs."""
        self._ended = self._ended or os.waitpid(self._pid, os.WNOHANG)[0] == self._pid
        return 0 if self._ended else None

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            os.kill(self._pid, 9)

    def wait(self) -> None:
        """Until it has ended."""
        if not self._ended:
            os.waitpid(self._pid, 0)
            self._ended = True


def _judge(its_input: int, its_output: int, *others: int) -> None:
    """The process: a session of its own, and standard streams that are the two pipes; it ends with its input."""
    for descriptor in others:
        os.close(descriptor)
    os.setsid()
    for stream, end in enumerate((its_input, its_output)):
        os.dup2(end, stream)
        os.close(end)
    main()


def prepare() -> None:
    """Fork the first one; to be called before anything else happens in the process."""
    _WAITING.append(Forked())


def Popen(*args: Any, **kwargs: Any) -> Any:
    """The prepared one, or, where that was lost, a process that is started as a person's run starts it."""
    return _WAITING.pop() if _WAITING else subprocess.Popen(*args, **kwargs)
