"""Files and folders that are never half written: they are made under a temporary name and renamed into place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Replace a file by this text; whoever reads it, also after a kill, finds the old text or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def replace_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` make a folder under a temporary name, then put it in the place of `folder`. For one process at a time.

    If `fill` raises, the old folder is still there; what it left behind goes with the next call.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    fill(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def create_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` make a folder that several processes may make at once: the first to finish wins, the others discard theirs."""
    temporary = folder.with_name(f".{folder.name}-{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        fill(temporary)
        os.replace(temporary, folder)
    except OSError:
        if not folder.exists():  # such as a full disk; else another process was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
