"""The Markdown card says what the HTML card says, and no character of a sentence breaks it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from gspo_core import laws
from gspo_core.laws.cards.finding import ProfileFinding
from gspo_core.laws.cards.markdown import markdown, plain
from gspo_core.laws.cards.measure import WEIGHTS, sign
from gspo_core.laws.cards.page import page
from gspo_core.laws.chapters.catalogue import named
from gspo_core.laws.kit.cause import Cause
from gspo_core.laws.mutants.mutant import LIKE, gspo

NOW = datetime(2026, 11, 29, tzinfo=UTC)
NAMES = (
    "the value is the paper's",
    "more padding does not change the loss",
    "no overflow guard changes ratios below e⁵⁰",
    "an empty row contributes nothing",
    "packed and padded layouts give the same loss",
    "a batch without tokens has loss 0",
)


class Text(HTMLParser):
    """The words of a page, its links, and the cells of its tables."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: set[str] = set()
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A link, a row, or a cell."""
        self.links |= {value for name, value in attrs if name == "href" and value}
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        self.inside = tag == "td" or (self.inside and tag not in ("pre", "style"))

    def handle_endtag(self, tag: str) -> None:
        """The end of a cell."""
        self.inside = self.inside and tag != "td"

    def handle_data(self, data: str) -> None:
        """Words, of a cell or beside tables."""
        self.words += data.split()
        if self.inside:
            self.rows[-1][-1] += data


def rendered(text: str) -> Text:
    """As a reader sees it."""
    return Text(MarkdownIt("commonmark").enable("table").render(text))


def width_for_length(logp: np.ndarray, old: np.ndarray, a: np.ndarray, mask: np.ndarray) -> float:
    """A mutant."""
    return gspo(logp / mask.shape[1] * np.maximum(mask.sum(axis=1, keepdims=True), 1), old, a, mask)


width_for_length.__name__ = "a|b_c*d*"


@pytest.fixture(scope="module")
def found() -> laws.Profile:
    """A wrong loss with a name that Markdown could read as a table and as emphasis."""
    subject = laws.subject_of(width_for_length, empty_rows=False)
    weights = ProfileFinding("weighting", WEIGHTS["tokens"][1], "tokens", False)
    report = laws.check(subject, LIKE, laws=[named(name) for name in NAMES], examples=5)
    cause = Cause("log ratios are divided by |y| + 1", "divide by mask.sum(-1)", laws.Severity.WRONG, report.broken)
    findings = (sign(subject), weights)
    return laws.Profile(findings, replace(report, explain=lambda _: (cause,)))


def test_both_cards_have_the_same_words_and_links(found: laws.Profile) -> None:
    shown, html = rendered(markdown(found, NOW)), Text(page(found, NOW).split("</style>")[1])
    own = {"result", "property", "law", "counterexamples", *(f"{v.law.name}:".split()[-1] for v in found.report.broken)}
    assert set(html.words) <= set(shown.words)
    assert set(shown.words) - set(html.words) <= own
    assert shown.links == html.links
    assert shown.links
    assert "2026-11-29" in shown.words


def test_every_row_of_a_table_is_that_of_the_html_card(found: laws.Profile) -> None:
    shown, html = rendered(markdown(found, NOW)), Text(page(found, NOW))
    assert [row for row in shown.rows if row] == html.rows
    assert len(html.rows) == len(found.findings) + len(NAMES)
    assert any("|" in cell for row in html.rows for cell in row)
    verdicts = {row[0].split(":")[0] for row in html.rows}
    assert verdicts >= {"broken", "holds", "not claimed", "different", "same as the paper", "untested"}


def test_causes_come_first_with_their_counterexample(found: laws.Profile) -> None:
    text = markdown(found, NOW)
    (cause, *_) = found.report.causes
    places = [
        text.index(x) for x in (plain(cause.sentence), "the law requires", cause.fix, "Measured properties", "All 6 laws")
    ]
    assert places == sorted(places)


def test_a_right_loss_has_a_card_without_a_cause() -> None:
    text = markdown(laws.check(gspo, LIKE, laws=[named(NAMES[0])], examples=2), NOW)
    assert "No law is broken." in text
    assert "counterexample" not in text


@given(st.text(st.sampled_from("|y_i*`<>[](){}~&#!\\\"'-+=:. 1\n"), min_size=1))
def test_any_sentence_is_shown_as_it_is_in_a_cell(sentence: str) -> None:
    said = f"x{sentence}x"
    (row,) = [row for row in rendered(f"| a | b |\n|---|---|\n| {plain(said)} | end |").rows if row]
    assert row == [" ".join(said.split()), "end"]
