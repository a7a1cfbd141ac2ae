"""Standard output and error that do not end a program: no reader, no terminal, no disk and no character is missing."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Outlet(io.FileIO):
    """A file descriptor. Once it cannot be written, as a pipe into `head` that has seen enough, all goes nowhere."""

    def write(self, data: Any) -> int:
        """As FileIO does, without its OSError."""
        try:
            return super().write(data)
        except OSError:
            write_nowhere(self.fileno())
            return len(data)


def write_nowhere(*descriptors: int) -> None:
    """Let what is written to these descriptors from now on vanish."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


@contextmanager
def steady_streams() -> Iterator[None]:
    """Inside, printing never fails: see `Outlet`, and what the terminal's encoding cannot show is printed as its escape."""
    before = sys.stdout, sys.stderr
    steady = _steady(before[0]), _steady(before[1])
    sys.stdout, sys.stderr = steady
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream, old in zip(steady, before, strict=True):
            if old is None:
                stream.close()
            else:
                stream.flush()


def _steady(stream: Any) -> Any:
    if stream is None:  # closed by the shell, as by `>&-`
        return Path(os.devnull).open("w", encoding="utf-8")
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, io.FileIO):  # replaced by a program around this one
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(Outlet(raw.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
