"""Draws the pictures of docs/gallery.md by running its code blocks.

python docs/hooks/gallery.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

DOCS = Path(__file__).parents[1]
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n!\[[^\]]*\]\((gallery/\w+\.png)\))?", re.DOTALL)


def pictures(page: str) -> Iterator[tuple[str, Any]]:
    """(file name, figure) of every block that is followed by a picture, in order; all blocks share one namespace."""
    scope: dict[str, Any] = {}
    for code, file in BLOCK.findall(page):
        exec(compile(code, "docs/gallery.md", "exec", dont_inherit=True), scope)
        if file:
            yield file, scope.pop("ax").get_figure()


def draw(folder: Path) -> list[str]:
    """Writes every picture below `folder`, and returns their names."""
    names = []
    for file, figure in pictures((DOCS / "gallery.md").read_text(encoding="utf-8")):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / file, dpi=110, bbox_inches="tight", metadata={"Software": None})
        names.append(file)
    return names


if __name__ == "__main__":
    matplotlib.use("agg")
    print("\n".join(draw(DOCS)))
