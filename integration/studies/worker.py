"""A process that does one run of a study after another, with one thread."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch

from integration.records.json_lines import Row

Function = Callable[[Row], Row]
"""A run's settings ↦ its result, both plain JSON values. A new process must be able to import it."""


@dataclass(frozen=True)
class Run:
    """One run of a study."""

    name: str
    """Unique in the study; a restart recognises a finished run by it."""
    settings: Row
    """The argument of the study's function: plain JSON values."""


def _context(function: Function) -> Any:
    """How processes start: forked from a server that has imported the function's module once and has started nothing else.

    Forking the study itself would not do, since CUDA and OpenMP do not survive a fork; Windows has no fork.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, function.__module__])  # has an effect only before the server starts
    return context


class Worker:
    """The study's end of such a process. The process ends with the connection, so it cannot outlive the study."""

    def __init__(self, function: Function) -> None:
        context = _context(function)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.run: Run | None = None
        """The run under way, if there is one."""

    def start(self, run: Run) -> None:
        """Begin a run."""
        self.run = run
        self.connection.send(run)

    def receive(self) -> tuple[str | None, str | None]:
        """The end of the run under way: (line for the results, None), or (None, traceback or exit code)."""
        self.run = None
        try:
            line, error = self.connection.recv()
        except EOFError:
            self.process.join()
            return None, f"its process ended with exit code {self.process.exitcode}"
        return line, error

    def close(self) -> None:
        """End the process: at once if a run is under way, else by itself. `process.join` waits for it."""
        self.connection.close()
        if self.run:
            self.process.terminate()


def _serve(function: Function, connection: Connection) -> None:
    """The process: runs as they come, without Ctrl-C, which is for the study to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    while True:
        try:
            run: Run = connection.recv()
        except EOFError:
            return
        began = time.perf_counter()
        answer: tuple[str | None, str | None]
        try:
            result = function(run.settings)
            seconds = round(time.perf_counter() - began, 2)
            row = {"name": run.name, "settings": run.settings, "seconds": seconds, "result": result}
            answer = json.dumps(row, allow_nan=False), None
        except Exception:  # any error of a run is reported by the study, and the other runs continue
            answer = None, traceback.format_exc()
        connection.send(answer)
