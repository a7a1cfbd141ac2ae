"""Docstrings for the site: examples become code blocks, and one-line sections keep their label in bold.

The docstrings are written to be read in `help()`: an example is a bare doctest, and a short "Returns: ..." stands on one
line. Markdown would read the first as a nested quotation and the second as plain text.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_SECTION = re.compile(r"^(Returns|Raises|Source|Sources|Yields): (?=\S)")


def for_markdown(text: str) -> str:
    """The docstring with fenced examples and bold labels.

    >>> print(for_markdown("Adds.\\n\\nReturns: the sum.\\n\\n>>> 1 + 1\\n2"))
    Adds.
    <BLANKLINE>
    **Returns:** the sum.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        starts, ends = line.startswith(">>> ") and not inside, inside and not line.strip()
        if starts:
            lines.append("```pycon")
        elif ends:
            lines.append("```")
        inside = (inside or starts) and not ends
        lines.append(line if inside else _SECTION.sub(r"**\1:** ", line))
    return "\n".join([*lines, "```"] if inside else lines)


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """One object that Griffe has read."""
        if obj.docstring:
            obj.docstring.value = for_markdown(obj.docstring.value)
