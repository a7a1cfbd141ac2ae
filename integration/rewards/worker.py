"""The trainer's side of the worker process: it is started for the first answers, and again when it is lost."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from integration.options.errors import TrainingFailure
from integration.rewards.server import HEAD
from integration.rewards.sources import Source
from integration.rewards.suspicion import harmless
from integration.rewards.verdicts import Limits, Verdict

STARTING = 300.0
"""Seconds that a worker may take to import and make its task."""
ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
"""One thread, so that it can fork, and the same order of sets in every process."""
_CODE = "import sys; sys.path[:] = {path!r}; from integration.rewards.server import main; main()"


class Worker:
    """Judges answers in a process of their own, within limits; what goes wrong there is a verdict and never an exception.

    One message carries all answers of a rollout, and equal ones are judged once. The process starts with the first of them. It
    has a session of its own, so that Ctrl-C does not reach it, and it ends when this process does, however that ends.
    """

    def __init__(self, source: Source, limits: Limits | None = None, *, forks: bool = True) -> None:
        """`forks=False`: as on a platform that cannot fork."""
        self.source, self.limits, self.forks = source, limits or Limits(), forks
        self.starts = 0
        """How often a process was started."""
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[bytes] = queue.Queue()

    def verdicts(self, pairs: Sequence[tuple[dict[str, Any], str]]) -> list[Verdict]:
        """Of (the question's entry, the answer), in their order. TrainingFailure if the worker cannot start at all."""
        first = {(id(entry), text): number for number, (entry, text) in reversed(list(enumerate(pairs)))}
        rows = sorted(first.values(), key=lambda row: (not harmless(pairs[row][1]), row))  # those can be judged together
        found: dict[int, Verdict] = {}
        while len(found) < len(rows):
            left = rows[len(found) :]
            verdicts = self._some([pairs[row] for row in left])
            found.update(zip(left, verdicts, strict=False))
        return [found[first[id(entry), text]] for entry, text in pairs]

    def close(self) -> None:
        """End the process; the next answers start another."""
        if self._process is not None:
            self._end()
        self._process = None

    def _some(self, pairs: list[tuple[dict[str, Any], str]]) -> list[Verdict]:
        """Verdicts of all pairs, or of those up to the one at which the worker was lost, that one included."""
        verdicts: list[Verdict] = []
        try:
            if self._process is not None and self._process.poll() is not None:  # killed between two rollouts
                self.close()
            if self._process is None:
                self._start()
            self._send(pairs)
            for index in range(len(pairs)):
                said = self._receive(self.limits.wall + 10.0 if self.forks and hasattr(os, "fork") else self.limits.wall)
                if said is None or not (isinstance(said, list) and len(said) == 3 and said[0] == index):
                    self.close()
                    return [*verdicts, Verdict(0.0, "time" if said is None and self._late else "lost")]
                verdicts.append(Verdict.of(said[1], said[2]))
        except BrokenPipeError:
            self.close()
            return [*verdicts, Verdict(0.0, "lost")]
        except BaseException:  # Ctrl-C in the middle of an answer, or no worker at all: the next ones start from nothing
            self.close()
            raise
        return verdicts

    def _start(self) -> None:
        path = [os.path.abspath(entry) for entry in sys.path]  # an empty one is the current folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(path=path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **ALONE}, start_new_session=True,
        )  # fmt: skip
        self._end = weakref.finalize(self, _end, self._process)
        self.starts += 1
        self._lines = queue.Queue()
        threading.Thread(target=_read_lines, args=(self._process.stdout, self._lines), daemon=True).start()
        with contextlib.suppress(BrokenPipeError):  # it says below why it ended
            self._send((self.source, self.limits, self.forks))
        said = self._receive(STARTING)
        if said != {"ready": True}:
            why = said.get("failed") if isinstance(said, dict) else "it ended, or did not answer"
            raise TrainingFailure(f"the process that judges answers could not start: {why}")

    def _send(self, message: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        data = pickle.dumps(message)
        self._process.stdin.write(HEAD.pack(len(data)) + data)
        self._process.stdin.flush()

    def _receive(self, seconds: float) -> Any:
        """What the worker says next; None if it is late or gone."""
        self._late = False
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            self._late = True
            return None
        try:
            return json.loads(line) if line else None
        except ValueError:
            return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it, wait for it, and close the pipe to it; the reader closes the other."""
    process.kill()
    process.wait()
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()


def _read_lines(stream: Any, lines: queue.Queue[bytes]) -> None:
    """Into the queue, and an empty line at the end."""
    with stream, contextlib.suppress(OSError, ValueError):
        for line in stream:
            lines.put(line)
    lines.put(b"")
