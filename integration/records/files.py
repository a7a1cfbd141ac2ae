"""Files and folders that are never half written: they are made under a temporary name and renamed into place.

What is renamed is on the disk before its name is, so that a power cut leaves the old content or the new one.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # matplotlib takes a second to import, and most runs draw nothing
    from matplotlib.figure import Figure


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file by this content; whoever reads it, also after a kill, finds the old one or the new one.

    What UTF-8 cannot hold, a lone surrogate, is written as its escape, which JSON reads back.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with named(path), temporary.open("wb") as stream:
        stream.write(content if isinstance(content, bytes) else content.encode("utf-8", errors="backslashreplace"))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    sync(path.parent)


def write_picture(path: Path, figure: Figure, *, dpi: int) -> None:
    """`write_whole` of a figure as PNG, without the name of the program in it: the same picture is the same file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    write_whole(path, content.getvalue())


@contextmanager
def named(path: Path) -> Iterator[None]:
    """The OSError of a write, which has no name, gets this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def replace_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` make a folder under a temporary name, then put it in the place of `folder`. For one process at a time.

    If anything fails, the old folder is still there. A folder cannot be renamed over another one, so that the old one is set
    aside first: after a kill between both renames `recover`, with which the next call begins, puts it back.
    """
    temporary, aside = folder.with_name(f".{folder.name}.tmp"), _aside(folder)
    recover(folder)
    remove(temporary)
    remove(aside)
    try:
        fill(temporary)
        sync_all(temporary)
        if folder.exists():
            os.replace(folder, aside)
        os.replace(temporary, folder)
    except Exception:
        with suppress(OSError):  # what cannot be tidied up now, as in a folder that is read-only, goes with the next call
            recover(folder)
            remove(temporary)
        raise
    sync(folder.parent)
    remove(aside)


def recover(folder: Path) -> None:
    """Put a folder back that `replace_folder` has set aside, if it was killed before the new one was in its place."""
    aside = _aside(folder)
    if aside.exists() and not folder.exists():
        os.replace(aside, folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def create_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` fill a new folder that several processes may make at once: the first wins, the others discard theirs.

    The processes may be on different machines. A place that cannot be written is found out before `fill` is called.
    """
    temporary = folder.with_name(f".{folder.name}-{secrets.token_hex(8)}.tmp")
    temporary.mkdir(parents=True)
    try:
        fill(temporary)
        sync_all(temporary)
        os.replace(temporary, folder)
        sync(folder.parent)
    except OSError:
        if not folder.exists():  # such as a full disk; else another process was faster
            raise
    finally:
        with suppress(OSError):  # in a folder that is read-only by now; what went wrong before is what counts
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
