"""What the process that judges answers may do: no more than compute, for a while, in some memory.

Three layers, as far as a platform has them. `confine` says which of them hold.

- Limits of the operating system (`resource`: Linux, macOS): memory, no file larger than nothing, no core dump, no process by
  an ordinary user. A timer of processor time ends the process whatever it is computing.
- A hook on Python's audit events, on every platform: writing and deleting files, starting processes, signals, connections
  and native libraries raise PermissionError, and the answer scores 0 even if it catches that. It binds Python code.
- A filter of system calls (Linux on x86-64), which binds native code, too: `syscalls`.

It protects the run, its files and the network from what a model writes by accident or finds by trial. It is no wall against
an expert with time: code that runs in the verifier's process can read any file that the user can, and it can look up the
solution or change its own score within [0, 1].
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from integration.rewards.syscalls import assembled, available, filter_calls
from integration.rewards.verdicts import Limits

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = (
    *("socket.", "subprocess.", "shutil.", "ctypes.", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"),
    *("os.system", "os.startfile", "os.kill", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink"),
    *("os.truncate", "os.chmod", "os.chown", "os.utime", "os.chflags", "os.lockf", "os.setxattr", "os.removexattr"),
    *("pty.", "signal.", "resource.", "ftplib.", "smtplib.", "imaplib.", "poplib.", "telnetlib.", "nntplib.", "urllib."),
    *("http.", "webbrowser.", "sqlite3.", "winreg.", "msvcrt.", "_winapi.", "syslog.", "tempfile.", "faulthandler."),
)
"""Beginnings of the audit events that are refused: docs.python.org/3/library/audit_events.html."""


class Hook:
    """Refuses audit events, and remembers that it did. A hook that is added stays as long as its process."""

    def __init__(self) -> None:
        self.refused = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """Raise PermissionError for what no verifier does."""
        if event == "open":
            flags = args[2] if len(args) > 2 and isinstance(args[2], int) else 0
            if not flags & _WRITING:
                return
        elif not event.startswith(FORBIDDEN):
            return
        self.refused = True
        raise PermissionError(f"an answer must not do this: {event}")


def prepare() -> None:
    """What a fork that confines itself would otherwise do: once, before the forks."""
    if available():
        assembled()
    gc.collect()
    gc.freeze()  # a fork that counts no references there copies fewer pages


def confine(limits: Limits) -> tuple[Hook, list[str]]:
    """Confine this process for good. Returns the hook, and in words which layers hold."""
    holds = []
    if _limit_resources(limits):
        holds.append("memory and file sizes limited")
    hook = Hook()
    if filter_calls():
        holds.append("system calls filtered")
    sys.addaudithook(hook)
    return hook, [*holds, "Python's audit events refused"]


def _limit_resources(limits: Limits) -> bool:
    try:
        import resource  # noqa: PLC0415 (not on Windows)
    except ImportError:
        return False
    for name, value in (("FSIZE", 0), ("CORE", 0), ("NPROC", 0), ("AS", _memory_now() + limits.megabytes * 2**20)):
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is None:
            continue
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):  # macOS refuses RLIMIT_AS
            continue
    return True


def _memory_now() -> int:
    """Bytes of address space that this process has; 4 GiB where that is not to be known."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 4 * 2**30


def timer(limits: Limits) -> Callable[[], None]:
    """A function that gives the process `limits.seconds` of processor time from now on; then the kernel ends it."""
    if not hasattr(signal, "setitimer"):
        return lambda: None
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    set_timer, which, seconds = signal.setitimer, signal.ITIMER_PROF, limits.seconds
    return lambda: set_timer(which, seconds) and None
