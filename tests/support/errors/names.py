"""Whether an error's message begins with the name of an argument."""

from __future__ import annotations

import ast
import re
from functools import cache

from support.errors.places import FOLDERS


@cache
def names_of_arguments() -> frozenset[str]:
    """Every parameter of a function, and every field of a class."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for folder in FOLDERS for path in folder.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    fields = {node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    return frozenset(fields | {node.arg for node in nodes if isinstance(node, ast.arg)})


def begins_with_an_argument(message: str, names: frozenset[str]) -> bool:
    """Whether a message begins like `low: ` or `low, high: `."""
    head = re.match(r"\w+(?:, \w+)*(?=: )", message)
    return head is not None and set(head[0].split(", ")) <= names
