"""docs/laws.md is generated from the laws, its links lead somewhere, and every law explains itself and cites a source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.repository import ROOT

from gspo_core.laws.cards.document import markdown
from gspo_core.laws.cards.sources import ISSUE, REPOSITORIES, THEORY, as_html, as_markdown, theory_labels
from gspo_core.laws.chapters.catalogue import EVERY
from gspo_core.laws.mutants import MUTANTS

PAGE = ROOT / "docs" / "laws.md"
CODE = [*(ROOT / "gspo_core" / "laws").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]


def anchors(text: str) -> set[str]:
    """The ids of a Markdown page, and those that its headings of one word get."""
    return set(re.findall(r'id="([^"]+)"', text)) | {name.lower() for name in re.findall(r"^#+ (\w+)$", text, re.MULTILINE)}


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown()


def test_every_link_inside_the_page_has_a_target() -> None:
    text = PAGE.read_text(encoding="utf-8")
    targets = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert targets <= anchors(text)
    assert {"claims", "claim-mean_ratio", "chapter-masks"} <= targets
    assert "no-such-claim" not in anchors(text)


def test_every_law_explains_itself_and_has_a_source() -> None:
    for law in EVERY:
        assert law.explanation
        assert law.source
        assert law.otherwise
        assert not law.name.endswith(".")


def test_slugs_are_unique_and_ascii() -> None:
    assert len({law.slug for law in EVERY}) == len(EVERY)
    assert [law.slug for law in EVERY if not re.fullmatch(r"[A-Za-z0-9_-]+", law.slug)] == []
    assert any(not law.name.isascii() for law in EVERY)


def test_every_cited_issue_belongs_to_a_known_repository() -> None:
    cited = [name for law in EVERY for name, _ in ISSUE.findall(law.source)]
    cited += [name for mutant in MUTANTS for name, _ in ISSUE.findall(mutant.seen)]
    assert set(cited) == set(REPOSITORIES)
    with pytest.raises(KeyError):
        as_markdown("nobody#1")
    assert as_html("verl#1") == '<a href="https://github.com/verl-project/verl/issues/1">verl#1</a>'


def test_citations_of_the_theory_have_one_form() -> None:
    """No "theory D2" or "need 18": each citation is `docs/theory.md, LABEL`, which a reader can look up."""
    loose = re.compile(r"\btheory [A-H]\d*\b|\bneeds? \d+\b(?! bytes)")
    assert loose.search("theory D2")
    for path in CODE:
        if path != Path(__file__):
            assert loose.findall(path.read_text(encoding="utf-8")) == [], path
    assert len([law for law in EVERY if theory_labels(law.source)]) > 30
    assert all(THEORY.search(law.source) for law in EVERY if "theory.md" in law.source)
