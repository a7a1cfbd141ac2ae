"""A filter of system calls for Linux on x86-64: the kernel itself refuses what no verifier needs, for good.

It is seccomp's classic BPF program (Linux, Documentation/userspace-api/seccomp_filter.rst). It refuses with EPERM: to open a
file for writing, to rename, delete or change one, to make a process or run a program, to signal another process, to make a
socket, to trace, mount or load, and to raise a limit. Threads are allowed, since numerical libraries make them.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from functools import cache
from typing import Any

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _ABSENT = 0x7FFF0000, 0x00050000 | 1, 0x00050000 | 38
"""What a program returns: let it through, EPERM, and ENOSYS, after which the C library takes an older call."""
_X86_64 = 0xC000003E
_WRITING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC and O_APPEND."""
_THREAD = 0x00010000
OPEN, OPENAT, CLONE, PRLIMIT = 2, 257, 56, 302
NEWER = (435, 437)
"""clone3 and openat2, whose arguments are in memory, where a filter cannot look."""
REFUSED = (
    *(41, 53, 57, 58, 59, 62, 76, 77, 82, 83, 84, 85, 86, 87, 88, 90, 91, 92, 93, 94),  # sockets, processes, files by name
    *(101, 129, 133, 160, 161, 164, 165, 166, 167, 168, 169, 170, 171, 175, 176, 188, 189, 190, 197, 198, 199, 200, 227),
    *(234, 240, 246, 248, 249, 250, 258, 259, 260, 263, 264, 265, 266, 268, 272, 297, 298, 304, 308, 310, 311, 313, 316, 317),
    *(320, 321, 322, 323, 424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 440, 442, 452),
)
"""Numbers of x86-64's table: kill, ptrace, execve, unlink, io_uring and their like."""


def available() -> bool:
    """Whether this machine has the filter, as far as its name tells; a container may still refuse it."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and struct.calcsize("P") == 8


def program() -> list[tuple[int, int, int, int]]:
    """Instructions (code, how many to skip if true, if false, operand)."""
    lines = [
        *[(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _X86_64), (_RETURN, 0, 0, _REFUSE)],  # 32-bit calls have other numbers
        *[(_LOAD, 0, 0, 0), (_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _REFUSE)],  # and so have x32's
    ]
    for number in NEWER:
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ABSENT)]
    for number, argument in ((OPEN, 1), (OPENAT, 2)):
        lines += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, 16 + 8 * argument)]
        lines += [(_ANY_BIT, 0, 1, _WRITING), (_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    lines += [(_EQUAL, 0, 4, CLONE), (_LOAD, 0, 0, 16)]
    lines += [(_ANY_BIT, 1, 0, _THREAD), (_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    lines += [(_EQUAL, 0, 6, PRLIMIT), (_LOAD, 0, 0, 32), (_EQUAL, 0, 3, 0), (_LOAD, 0, 0, 36)]  # to ask is allowed
    lines += [(_EQUAL, 0, 1, 0), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    for number in REFUSED:
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    return [*lines, (_RETURN, 0, 0, _ALLOW)]


@cache
def assembled() -> tuple[Any, Any, Any]:
    """(the C library, the program's head, its instructions): made once, before the forks that use it."""
    code = b"".join(struct.pack("HBBI", *line) for line in program())
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    return ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(head, len(head)), buffer


def filter_calls() -> bool:
    """Put the filter around this process, for good; whether the kernel took it."""
    if not available():
        return False
    libc, head, _ = assembled()
    if libc.prctl(38, 1, 0, 0, 0) != 0:  # PR_SET_NO_NEW_PRIVS
        return False
    return bool(libc.prctl(22, 2, head, 0, 0) == 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
