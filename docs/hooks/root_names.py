"""The table of the names at gspo_core's root, made from the source: name, first sentence, and a link to its full entry."""

from __future__ import annotations

from typing import Any

import griffe

MARK = "<!-- the names at the root -->"


def first_sentence(docstring: griffe.Docstring | None) -> str:
    """Up to the first full stop or blank line, on one line, for a cell of a table."""
    text = " ".join(docstring.value.split("\n\n")[0].split()) if docstring else ""
    return text.split(". ")[0].rstrip(".:").replace("|", r"\|")


def table(root: griffe.Module) -> str:
    """A row per name, by the module that defines it."""
    names = sorted((str(name) for name in root.exports or []), key=lambda name: root[name].canonical_path)
    rows = [f"| [`{name}`][{root[name].canonical_path}] | {first_sentence(root[name].docstring)} |" for name in names]
    return "\n".join(["| name | |", "|---|---|", *rows])


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this for every page."""
    if MARK not in markdown:
        return markdown
    root = griffe.load("gspo_core", search_paths=["."], resolve_aliases=True)
    return markdown.replace(MARK, table(root))  # type: ignore[arg-type]
