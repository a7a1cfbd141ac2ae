"""docs/laws.md is what the laws say of themselves."""

from __future__ import annotations

from support.repository import ROOT

from gspo_core.laws.cards.document import markdown
from gspo_core.laws.chapters.catalogue import EVERY

PAGE = ROOT / "docs" / "laws.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown()


def test_every_law_explains_itself_and_has_a_source() -> None:
    for law in EVERY:
        assert law.explanation
        assert law.source
        assert law.otherwise
        assert not law.name.endswith(".")
