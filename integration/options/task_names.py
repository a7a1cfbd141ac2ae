"""The names of reasoning-gym's tasks, without importing it: that takes seconds, and a slip of the pen is answered at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from integration.options.errors import UserError

NAMED = re.compile(r'^(?:DATASET_NAME = |register_dataset\()"(\w+)"', re.MULTILINE)
"""Each of its generators has such a line."""


def written_names() -> frozenset[str]:
    """The names that stand in its files; none if it is not installed, or is written in another way."""
    spec = find_spec("reasoning_gym")
    return frozenset() if spec is None or spec.origin is None else _names_in(Path(spec.origin).parent)


@cache
def _names_in(folder: Path) -> frozenset[str]:
    """Of all its files, which are read once: every set of options asks for the names, and reading takes 30 ms."""
    texts = (file.read_text(encoding="utf-8") for file in folder.rglob("*.py"))
    return frozenset(name for text in texts for name in NAMED.findall(text))


def require_known(name: str, known: Collection[str]) -> None:
    """UserError, with those that are spelled alike, unless the name is among them."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise UserError(f"--task: reasoning-gym has no task {name!r}{hint}")
