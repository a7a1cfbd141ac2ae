"""Answers that a verifier of reasoning-gym pays for though they are wrong: found by giving junk to all 106 of them."""

from __future__ import annotations

import cmath
import re
from typing import Any

WORDS = {"game_of_life_halting": {"true", "false"}}
"""The only answers of a task, in small letters, where the verifier takes any text for one of them."""
_BETWEEN = re.compile(r"[\s,;:\[\](){}]+")
_NO_FINITE = re.compile(r"nan|inf|e", re.IGNORECASE)


def passes(name: str, entry: dict[str, Any], text: str) -> bool:
    """Whether an answer goes on to the verifier of the task; others score 0."""
    answer = str(entry.get("answer"))
    if name in WORDS:
        return text.strip().lower() == answer.strip().lower()
    return not non_finite(text) or text.strip() == answer.strip()


def non_finite(text: str) -> bool:
    """Whether a text consists of numbers, and one of them is none or infinite. nan is at no distance from anything.

    >>> [non_finite(text) for text in ("nan", "[1, -inf]", "1e999", "nan+nanj", "1 - infi", "12", "nan is a bread", "")]
    [True, True, True, True, True, False, False, False]
    """
    if _NO_FINITE.search(text) is None:  # nearly always
        return False
    found = False
    for word in filter(None, _BETWEEN.split(text.replace(" + ", "+").replace(" - ", "-"))):
        number = _number(word)
        if number is None:
            return False
        found |= not cmath.isfinite(number)
    return found


def _number(word: str) -> complex | None:
    """As Python, or a person who writes i for the imaginary unit, reads it."""
    for spelling in (word, word[:-1] + "j") if word[-1:] in "iI" else (word,):
        try:
            return complex(spelling)
        except ValueError:
            continue
    return None
