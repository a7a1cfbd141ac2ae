"""Options that are written as key=value."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

from integration.options.errors import UserError


def parse_args(option: str, pairs: Sequence[str]) -> dict[str, Any]:
    """`k=v` pairs as keyword arguments; v is a Python literal or JSON if it reads as one, else a string.

    >>> parse_args("--task-args", ["a=1", "b=[1, {'c': None}]", 'd={"deep": [true, null]}', "e=word"])
    {'a': 1, 'b': [1, {'c': None}], 'd': {'deep': [True, None]}, 'e': 'word'}
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"{option}: expected key=value, got {pair!r}")
        parsed[key] = _literal(value)
    return parsed


def _literal(value: str) -> Any:
    for read in (ast.literal_eval, json.loads):
        try:
            return read(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return value
