"""Functions of an installed package, from its own text, where its imports want what a CPU or this Python does not have."""

from __future__ import annotations
import __future__

import ast
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Definition = ast.FunctionDef | ast.ClassDef


def definitions(distribution: str, file: str, names: Iterable[str], given: dict[str, Any]) -> dict[str, Any]:
    """The named functions and classes of a module, executed unchanged but for decorators; `given` is all that they import.

    Raises: LookupError if the file has no such definition.
    """
    path = Path(str(importlib.metadata.distribution(distribution).locate_file(file)))
    source = path.read_text(encoding="utf-8")
    found = {node.name: node for node in ast.parse(source).body if isinstance(node, Definition)}
    absent = [name for name in names if name not in found]
    if absent:
        raise LookupError(f"{distribution}: expected {', '.join(absent)} in {file}, got {', '.join(found)}")
    body: list[ast.stmt] = [_undecorated(found[name]) for name in names]
    code = compile(ast.Module(body, []), str(path), "exec", __future__.annotations.compiler_flag, dont_inherit=True)
    space = dict(given)
    exec(code, space)
    return space


def _undecorated(node: Definition) -> Definition:
    node.decorator_list = []
    return node
