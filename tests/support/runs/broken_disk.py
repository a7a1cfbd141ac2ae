"""A disk that fails: at the n-th thing that is changed in a folder, as when it is full, read-only or going to pieces."""

from __future__ import annotations

import builtins
import io
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Killed(BaseException):
    """The process ends here: nothing is tidied up."""


class Fault(NamedTuple):
    """The change that fails, counted from 0, and how."""

    at: int
    errno: int
    """0: the process is killed there."""
    stays: bool
    """All later changes fail, too."""


class Disk:
    """Counts the changes in a folder, and fails as the fault says."""

    def __init__(self, folder: Path, fault: Fault | None) -> None:
        self._folder, self._fault, self.changes = str(folder), fault, 0

    def change(self) -> None:
        """One more; OSError if it is the one to fail."""
        number, fault = self.changes, self._fault
        self.changes += 1
        if fault is not None and (number == fault.at or (fault.stays and number > fault.at)):
            raise OSError(fault.errno, os.strerror(fault.errno)) if fault.errno else Killed

    def guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of `os` that changes the path of its first argument, or, below a directory's descriptor, a name in it."""

        def guard(path: Any, *args: Any, **kwargs: Any) -> Any:
            here = kwargs.get("dir_fd") is not None or str(path).startswith(self._folder)
            if here and (function is not OPEN or args[0] & WRITING):
                self.change()
            return function(path, *args, **kwargs)

        return guard

    def opened(self, path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """As `open`: opening to write is a change, and so is each write, half of which is done when it fails."""
        mine = set(mode) & set("wax+") and str(path).startswith(self._folder)
        if mine:
            self.change()
        stream = BUILTIN_OPEN(path, mode, *args, **kwargs)
        if mine:
            write = stream.write

            def writes(content: Any) -> int:
                try:
                    self.change()
                except (OSError, Killed):
                    write(content[: len(content) // 2])
                    stream.flush()
                    raise
                return int(write(content))

            stream.write = writes
        return stream

    def synced(self, _: int) -> None:
        """As `os.fsync`, without its wait."""
        self.change()


OPEN, BUILTIN_OPEN = os.open, builtins.open


@contextmanager
def longest_file(size: int) -> Iterator[None]:
    """No file grows beyond so many bytes: writing fails in libraries of any language, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Watched(Disk):
    """A disk that does not fail; before each of these changes, or before every one, something else happens."""

    def __init__(self, folder: Path, happens: Callable[[], object], *at: int) -> None:
        super().__init__(folder, None)
        self._happens, self._at, self._inside = happens, at, False

    def change(self) -> None:
        """One more."""
        if self._inside:  # a change by what happens
            return
        super().change()
        if not self._at or self.changes in self._at:
            self._inside = True
            try:
                self._happens()
            finally:
                self._inside = False


@contextmanager
def disk(folder: Path, fault: Fault | None = None, made: Disk | None = None) -> Iterator[Disk]:
    """Whatever changes this folder, inside, does it on a disk with this fault, or on the one given."""
    made = made or Disk(folder, fault)
    changing = ("open", "mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "truncate")
    guards = {name: made.guarded(getattr(os, name)) for name in changing}
    with (
        patch.multiple(os, **guards, fsync=made.synced),
        patch.object(io, "open", made.opened),
        patch.object(builtins, "open", made.opened),
    ):
        yield made
