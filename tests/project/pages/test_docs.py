"""The documentation: every link resolves, every page is in the navigation, the map has every folder, and code blocks run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from support.pages import DOCS, PAGES, anchors, blocks, links, run, slug
from support.repository import ROOT

CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
WITH_TESTS_OF_THEIR_OWN = {"in-your-trainer.md", "libraries.md", "new-variant.md", "new-backend.md"}
RUNNABLE = [
    page
    for page in sorted(DOCS.glob("*.md"))
    if page.name not in WITH_TESTS_OF_THEIR_OWN and "```python" in page.read_text(encoding="utf-8")
]


def names(paths: list[Path]) -> list[str]:
    """For pytest's ids."""
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_link_and_anchor_resolves(page: Path) -> None:
    broken = []
    for target in links(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if re.match(r"https?://", target):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(target)
    assert not broken


PATH = re.compile(r"\b(?:docs|benchmarks|tests|integration|gspo_core|backends)/[\w./-]+\.(?:md|py|json|png|ipynb)\b")
TEXTS = [
    *(path for top in ("gspo_core", "backends", "integration", "tests", "benchmarks") for path in (ROOT / top).rglob("*.py")),
    *PAGES,
    *(ROOT / name for name in ("CHANGELOG.md", "Makefile", "mkdocs.yml", "pyproject.toml")),
]


def test_every_file_that_code_and_pages_name_is_there() -> None:
    named = {(name, str(path.relative_to(ROOT))) for path in TEXTS for name in PATH.findall(path.read_text(encoding="utf-8"))}
    assert len(named) > 50
    assert not {(name, where) for name, where in named if not (ROOT / name).exists()}


def test_a_broken_link_would_be_found() -> None:
    page = '# A (b), ε\n\n[x](y.md#z) `[no](link)` ![p](q.png) <a id="d2"></a>\n\n```\n[no](code)\n# no heading\n```\n'
    assert links(page) == ["y.md#z", "q.png"]
    assert anchors(page) == {"a-b", "d2"}
    assert slug("float16 and `loss_scaling`") == "float16-and-loss_scaling"


def test_the_navigation_has_every_page_once_and_newcomers_first() -> None:
    listed = re.findall(r"^ +- .+: ([\w/-]+\.md)$", CONFIG, flags=re.MULTILINE)
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    data = {name for name in there if re.fullmatch(r"results/[\w-]+/\w+\.md", name)}  # not_in_nav
    assert sorted(listed) == sorted(there - data)
    assert listed[:2] == ["index.md", "quickstart.md"]


def test_the_site_loads_nothing_from_other_hosts() -> None:
    assert "  font: false" in CONFIG
    assert not re.search(r"https?://", CONFIG)


PACKAGES = (
    "gspo_core",
    "backends/gspo_torch",
    "backends/gspo_jax",
    "backends/gspo_plots",
    "backends/gspo_scale",
    "integration",
)


def test_the_map_has_every_folder_and_every_module_at_the_top_and_nothing_else() -> None:
    text = (DOCS / "map.md").read_text(encoding="utf-8")
    mapped = set(re.findall(r"`((?:[\w-]+/)+(?:\w+\.py)?)`", re.sub(r"^Every folder.*?\n\n", "", text.split("\n\n", 1)[1])))
    folders = {
        f"{path.parent.relative_to(ROOT)}/" for top in PACKAGES for path in (ROOT / top).rglob("*.py") if path.name[0] != "_"
    } | {f"{top}/" for top in ("tests", "benchmarks", "docs")}
    folders |= {f"docs/{path.name}/" for path in DOCS.iterdir() if path.is_dir() and path.name not in ("assets", "gallery")}
    modules = {f"{top}/{path.name}" for top in ("gspo_core", "integration") for path in (ROOT / top).glob("[!_]*.py")}
    missing = (folders | modules) - mapped
    assert not missing, f"not on docs/map.md: {sorted(missing)}"
    assert all((ROOT / path).exists() for path in mapped if path.startswith((*PACKAGES, "docs/")))


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=names(RUNNABLE))
def test_the_code_of_a_page_runs_and_prints_what_is_shown(page: Path) -> None:
    scope: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page.read_text(encoding="utf-8")):
        printed = run(block.code, scope, page.name)
        assert printed == (block.shown or "")
    assert scope.keys() > {"__name__"}
