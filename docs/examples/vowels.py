"""A task of your own: how many vowels does a word have?

python integration/train_torch.py --model small --task docs/examples/vowels.py --rollouts 40
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

VOWELS = "aeiou"


def questions(least: int = 3, most: int = 6) -> Iterator[dict[str, Any]]:
    """Words without a meaning. The same ones each time: a resumed run needs them. `--task-args most=9` makes them longer."""
    draw = random.Random(0)
    while True:
        word = "".join(draw.choice("aeioubcdfglmnprst") for _ in range(draw.randint(least, most)))
        wording = draw.choice(["How many vowels has {}?", "Count the vowels of {}."])
        yield {"question": wording.format(word), "answer": str(sum(c in VOWELS for c in word)), "problem": word}


def score(answer: str, entry: dict[str, Any]) -> float:
    """1 for the right number, a half for one beside it."""
    if not answer.isdecimal() or len(answer) > 3:
        return 0.0
    return max(0.0, 1.0 - abs(int(answer) - int(entry["answer"])) / 2)
