"""A training script in a process of its own, forked from a server that has imported the frameworks once.

It is `python integration/train_torch.py …` without the seconds of imports; test_command_line.py starts the scripts that way.
Unless the whole of it is asked for, its report has an empty picture, since drawing takes longer than such a run trains, and the
process that judges its answers is a fork, too.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from support.runs import forked_judges
from support.runs.pictures import without_pictures
from support.runs.server import started_server

from integration.options.command_line import command_line

LONGEST = 240.0
"""Seconds that a process may take before something is wrong."""
JAX_READS_AT_IMPORT = {
    "JAX_COMPILATION_CACHE_DIR": str,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": float,
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": int,
}


class Done(NamedTuple):
    """A process that has ended."""

    returncode: int
    stdout: str
    stderr: str


class Started:
    """A process under way: its name as a file (`train_torch.py`), its arguments, and the environment that it sees."""

    def __init__(
        self, script: str, arguments: list[str], environment: dict[str, str], *, whole: bool = False, executing: bool = False
    ) -> None:
        """Begin it.

        Args:
            whole: with pictures, and with a process for its answers that is started as a person's run starts it.
            executing: with such a process alone, since each answer is judged in a fork of it, which is then smaller.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="forked-", ignore_cleanup_errors=True)
        self._printed = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        printed = [str(path) for path in self._printed]
        self.process = started_server().Process(
            target=_main, args=(script, arguments, environment, printed, whole, whole or executing)
        )
        self.process.start()

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.exitcode is None

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self, seconds: float) -> None:
        """Wait for its end, at most so long."""
        self.process.join(seconds)

    def done(self) -> Done:
        """Wait for its end; once. A process that a signal ended has minus its number as exit status."""
        try:
            self.process.join(LONGEST)
            if self.process.exitcode is None:
                self.process.kill()
                self.process.join()
                raise TimeoutError(f"not done after {LONGEST:.0f} s")
            printed = [path.read_text(encoding="utf-8") if path.exists() else "" for path in self._printed]
        finally:
            self._folder.cleanup()
        return Done(self.process.exitcode, *printed)


def _main(
    script: str, arguments: list[str], environment: dict[str, str], printed: list[str], pictures: bool, judge: bool
) -> None:
    """The forked process."""
    if not judge:
        forked_judges.prepare()
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in zip((1, 2), printed, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a server that was started in the background ignores Ctrl-C
    if script == "train_jax.py":
        jax = import_module("jax")
        for name in JAX_READS_AT_IMPORT.keys() & environment.keys():
            jax.config.update(name.lower(), JAX_READS_AT_IMPORT[name](environment[name]))
    module = import_module(f"integration.{script.removesuffix('.py')}")
    sys.argv = [script, *arguments]
    with ExitStack() as stack:
        if not pictures:
            stack.enter_context(without_pictures())
        if not judge:
            stack.enter_context(patch("integration.rewards.worker.subprocess", forked_judges))
        sys.exit(command_line(module.train, module.__doc__))
