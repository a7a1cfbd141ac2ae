"""Answers that a verifier of reasoning-gym pays for though they are wrong: found by giving junk to all 106 of them."""

from __future__ import annotations

import cmath
import re
from fractions import Fraction
from itertools import takewhile
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


def mended(name: str, entry: dict[str, Any], text: str, score: Any) -> Any:
    """The verifier's score, or a smaller one where it pays too much.

    coin_flip divides the common beginning of answer and solution by the shorter of the two, so that "0" is right for every
    probability below 1; here by the longer.

    >>> [mended("coin_flip", {"answer": "0.3125"}, text, 1.0) for text in ("0", "5/16", "0.31")]
    [0.16666666666666666, 1.0, 0.6666666666666666]
    """
    if name != "coin_flip" or score != 1.0:
        return score
    given, solution = (float(Fraction(x.replace(",", ""))) for x in (text, entry["answer"]))
    if abs(given - solution) <= 1e-4:
        return score
    texts = [f"{x:.10g}" for x in (given, solution)]
    common = takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False))
    return len(list(common)) / max(map(len, texts))


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
