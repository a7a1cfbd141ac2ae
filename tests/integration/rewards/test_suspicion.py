"""What can act is judged alone: an expression that calls something other than a function of mathematics."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integration.rewards.suspicion import FUNCTIONS, harmless

ACTING = [
    "exit()", "exit ()", "exit\t()", "exit\n()", "exit\\\n()", "(exit)()", "[exit][0]()", "__import__('os')", "a.b", "a . b",
    "().__class__", "(lambda: 0)()", "f'{exit()}'", "x(1)", "quit(0)", "'a'.upper()", "{}['a']()", "print`1`", "exit#\n()",
    "@exit\nclass A: pass", "exit;()", "ｅｘｉｔ()", "sin.__class__(1)",
]  # fmt: skip


@pytest.mark.parametrize("text", ACTING)
def test_what_may_act_is_not_harmless(text: str) -> None:
    assert not harmless(text)


@pytest.mark.parametrize(
    "text", ["", "12", "[[0, 1], [1, 0]]", "(3 + 4)*6 - 2", "x**2*exp(x)/2 + C", "['a', 'b']", "No solution"]
)
def test_ordinary_answers_are_harmless(text: str) -> None:
    assert harmless(text)


PIECES = [*"x1 ()[]{}.,'+*_=:#", '"', "\\", "\n", "sin", "exit", "lambda ", "if ", " for x in "]


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_a_harmless_expression_calls_only_functions_of_mathematics(text: str) -> None:
    """Python's own parser is the oracle."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    acts = any(not (isinstance(call.func, ast.Name) and call.func.id in FUNCTIONS) for call in calls)
    acts |= any(isinstance(node, ast.Attribute) for node in ast.walk(tree))
    assert not (acts and harmless(text)), ast.dump(tree)
