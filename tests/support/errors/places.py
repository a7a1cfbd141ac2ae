"""What a row of the error tables is, and where in the package an error came from."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gspo_jax
import gspo_torch

import gspo_core

FOLDERS = [Path(package.__file__).parent for package in (gspo_core, gspo_torch, gspo_jax)]


class Row(NamedTuple):
    """A wrong call, and what its error must say: the argument first, then what was expected, what came, and the fix."""

    kind: type[Exception]
    says: tuple[str, ...]
    """Fragments of the message, in this order; the first one is how it begins."""
    call: Callable[[], Any]


class Place(NamedTuple):
    """A raise statement."""

    file: str
    first: int
    last: int
    text: str

    def holds(self, file: str, line: int) -> bool:
        """Whether a line of a file belongs to it."""
        return file == self.file and self.first <= line <= self.last


def raised(row: Row) -> Exception:
    """The error that the row's call raises."""
    try:
        row.call()
    except Exception as error:
        return error
    raise AssertionError(f"accepted: {row.says[0]}")


def origin(error: Exception) -> tuple[str, int]:
    """(path, line) of the innermost frame in one of the packages."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if any(folder in Path(f.filename).parents for folder in FOLDERS)]
    return str(Path(own[-1].filename)), int(own[-1].lineno or 0)


def raises_of(path: Path, source: str | None = None) -> list[Place]:
    """Every raise statement of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8") if source is None else source)
    return [
        Place(str(path), node.lineno, int(node.end_lineno or node.lineno), ast.unparse(node))
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
    ]
