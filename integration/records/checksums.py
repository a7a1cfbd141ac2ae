"""Checksums of a folder's files: whether what is read is what was written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

NAME = "checksums.json"
"""Maps every other file of the folder, also in folders below it, to its [size in bytes, SHA-256]."""


def write_checksums(folder: Path) -> None:
    """Write down the size and the SHA-256 of every file; the folder must be finished."""
    there = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: _measure(path) for name, path in there.items() if name != NAME}
    (folder / NAME).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that `write_checksums` finished; None if every file is as it was."""
    try:
        files = dict(json.loads((folder / NAME).read_text(encoding="utf-8")))
        expected = {str(name): (int(size), str(digest)) for name, (size, digest) in files.items()}
    except FileNotFoundError:
        return f"{NAME} is missing"
    except (OSError, ValueError, TypeError) as error:
        return f"{NAME} cannot be read ({error})"
    if not expected:
        return f"{NAME} names no file"
    return next((wrong for name, known in expected.items() if (wrong := _difference(folder / name, name, known))), None)


def _difference(path: Path, name: str, expected: tuple[int, str]) -> str | None:
    size, digest = expected
    try:
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes, not {size:,}"
        return None if _measure(path) == [size, digest] else f"{name} has other bytes than were written"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"


def _measure(path: Path) -> list[int | str]:
    with path.open("rb") as stream:
        return [path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()]
