"""The table of the names at gspo_core's root, made from the source: name, first sentence, and a link to its full entry."""

from __future__ import annotations

from typing import Any

import griffe

MARK = "<!-- the names at the root -->"
PACKAGES = ("objectives", "layouts", "advantages", "planning", "clip_range", "metrics", "mismatch", "kl")


def first_sentence(docstring: griffe.Docstring | None) -> str:
    """Up to the first full stop or blank line, on one line, for a cell of a table."""
    text = " ".join(docstring.value.split("\n\n")[0].split()) if docstring else ""
    return text.split(". ")[0].rstrip(".:").replace("|", r"\|")


def table(root: griffe.Module) -> str:
    """A row per name, in the order of `__all__`'s packages."""
    rows = {}
    for package in PACKAGES:
        for name in sorted(set(root.exports or []) & set(root[package].all_members)):
            rows.setdefault(
                str(name), f"| [`{name}`][gspo_core.{package}.{name}] | {first_sentence(root[str(name)].docstring)} |"
            )
    missing = {str(name) for name in root.exports or []} - set(rows)
    if missing:
        raise ValueError(f"names at the root that no package of the reference has: {sorted(missing)}")
    return "\n".join(["| name | |", "|---|---|", *rows.values()])


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this for every page."""
    if MARK not in markdown:
        return markdown
    root = griffe.load("gspo_core", search_paths=["."], resolve_aliases=True)
    return markdown.replace(MARK, table(root))  # type: ignore[arg-type]
