"""key=value on the command line: values are Python literals, JSON or words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from integration.options.errors import UserError
from integration.options.pairs import parse_args


def test_task_arguments_are_python_literals_or_strings() -> None:
    parsed = parse_args("--task-args", ["a=1", "b=0.5", "c=True", "d=('+','-')", "e=word", "f=x=y"])
    assert parsed == {"a": 1, "b": 0.5, "c": True, "d": ("+", "-"), "e": "word", "f": "x=y"}
    with pytest.raises(UserError, match=r"--task-args: expected key=value, got '1=2'"):
        parse_args("--task-args", ["1=2"])


@pytest.mark.parametrize(
    "value", [[1, {"a": (2, None)}], {"b": [True, "x"]}, [{"name": "chain_sum", "config": {"max_terms": 3}}]]
)
def test_nested_arguments_are_written_in_python_or_in_json(value: Any) -> None:
    assert parse_args("--task-args", [f"key={value!r}"]) == {"key": value}
    listed = json.loads(json.dumps(value))
    assert parse_args("--task-args", [f"key={json.dumps(value)}"]) == {"key": listed}
