"""Files and folders that are never half written: they are made under a temporary name and renamed into place.

What is renamed is on the disk before its name is, so that a power cut leaves the old content or the new one.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Replace a file by this text; whoever reads it, also after a kill, finds the old text or the new one.

    What UTF-8 cannot hold, a lone surrogate, is written as its escape, which JSON reads back.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    sync(path.parent)


def replace_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` make a folder under a temporary name, then put it in the place of `folder`. For one process at a time.

    If `fill` raises, the old folder is still there; what it left behind goes with the next call. A folder cannot be renamed
    over another one, so that the old one is set aside first: after a kill between both renames the next call puts it back.
    """
    temporary, aside = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    if aside.exists() and not folder.exists():
        os.replace(aside, folder)
    remove(temporary)
    remove(aside)
    fill(temporary)
    sync_all(temporary)
    if folder.exists():
        os.replace(folder, aside)
    os.replace(temporary, folder)
    sync(folder.parent)
    remove(aside)


def create_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` make a folder that several processes may make at once: the first to finish wins, the others discard theirs.

    The processes may be on different machines.
    """
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(8)}.tmp")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        fill(temporary)
        sync_all(temporary)
        os.replace(temporary, folder)
        sync(folder.parent)
    except OSError:
        if not folder.exists():  # such as a full disk; else another process was faster
            raise
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, a file, or a link without what it points to; nothing may be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_all(folder: Path) -> None:
    """Wait until all files of a folder, and their names, are on the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
