"""Which answers can do nothing but be a value, even if they are executed: they can be judged together, in one process."""

from __future__ import annotations

import re

FUNCTIONS = {
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "exp",
    "log",
    "ln",
    "sqrt",
}
"""Of mathematics: those that the solutions of reasoning-gym's integrals have. Calling anything else may do anything."""
_VALUES = re.compile(r"[\w\s+\-*/^.,:\[\](){}'\"=<>%|&!?]*")
_CALL = re.compile(r"""((?<!\w)\w+|[\])}'"])\s*\(""")
_LONGEST = 20_000


def harmless(text: str) -> bool:
    """Whether an expression calls nothing but functions of mathematics: without a call it cannot act, however long it takes.

    >>> [harmless(x) for x in ("[[1, 0], [0, 1]]", "(3 + 4)*6", "x*exp(x)/2 + C", "exit()", "a.b", "__import__")]
    [True, True, True, False, False, False]
    """
    if len(text) > _LONGEST or "__" in text or re.search(r"\.\s*[^\W\d]", text) or _VALUES.fullmatch(text) is None:
        return False
    return all(called in FUNCTIONS for called in _CALL.findall(text))
