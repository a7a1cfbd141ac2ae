"""The project's Markdown pages: their links, anchors and code blocks."""

from __future__ import annotations

import contextlib
import io
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

from support.repository import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"])

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A code block, and what the page shows below it."""

    code: str
    shown: str | None


def prose(page: str) -> str:
    """The page without its code."""
    return re.sub(r"`[^`\n]+`", "", _FENCE.sub("", page))


def links(page: str) -> list[str]:
    """Targets of all links and pictures outside of code."""
    return _LINK.findall(prose(page))


def slug(heading: str) -> str:
    """The anchor of a heading, as Python-Markdown's `toc` makes it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


def anchors(page: str) -> set[str]:
    """Everything that a link may point to: headings, and `<a id="...">`."""
    without_code = _FENCE.sub("", page)
    headings = re.findall(r"^#{1,6} (.+)$", without_code, flags=re.MULTILINE)
    return {slug(heading) for heading in headings} | set(re.findall(r'<a id="([^"]+)">', without_code))


def blocks(page: str) -> Iterator[Block]:
    """Every Python block, with the unlabelled block that follows it directly, which shows what it prints."""
    fences = list(_FENCE.finditer(page))
    for this, after in zip(fences, [*fences[1:], None], strict=True):
        if this[1] == "python":
            adjacent = after is not None and not after[1] and not page[this.end() : after.start()].strip()
            yield Block(this[2], after[2] if after is not None and adjacent else None)


def section(page: str, heading: str) -> str:
    """What stands under a heading of the second level, code included."""
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[heading]


def run(code: str, scope: dict[str, Any], name: str) -> str:
    """What the code prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, name, "exec", dont_inherit=True), scope)
    return out.getvalue()
