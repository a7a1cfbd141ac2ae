"""docs/laws.md is what the laws say of themselves."""

from __future__ import annotations

from pathlib import Path

from gspo_core.laws.catalogue import EVERY
from gspo_core.laws.document import markdown

PAGE = Path(__file__).parents[1] / "docs" / "laws.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown()


def test_every_law_explains_itself_and_has_a_source() -> None:
    for law in EVERY:
        assert law.explanation
        assert law.source
        assert law.otherwise
        assert not law.name.endswith(".")
