"""The results of a check or a profile as Markdown, for a pull request: causes first, all laws behind a fold."""

from __future__ import annotations

import re
from datetime import datetime
from html import escape

from gspo_core.laws.kit.cause import Cause
from gspo_core.laws.kit.report import WORDS, Report
from gspo_core.laws.kit.runner import LawVerdict

from .contents import AGREES, MEASURED, NOTHING, line, notes, ordered, report_of, title, verdict
from .profiling import Profile
from .sources import as_card

SPECIAL = re.compile(r"[\\`*_\[\]<>|~&]")
"""Characters that Markdown would read as more than themselves, wherever they are on a line."""


def plain(text: str) -> str:
    r"""Text on one line that Markdown shows as it is, also in a cell of a table.

    >>> print(plain("ratios are divided by |y|"))
    ratios are divided by \|y\|
    """
    return SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))


def markdown(found: Report | Profile, now: datetime | None = None) -> str:
    """The Markdown text of a check or a profile, with the contents of the HTML page. `now` is its date; None: today."""
    report = report_of(found)
    parts = [f"# {plain(title(report))}", *(_cause(cause) for cause in report.causes)]
    parts += [] if report.causes else [NOTHING]
    parts += [plain(words) for words in notes(report)]
    parts += _findings(found) if isinstance(found, Profile) else []
    parts += [plain(line(report, now)), _laws(report)]
    broken = [v for v in ordered(report) if v.violation is not None]
    shown = [f"{plain(v.law.name)}:\n\n{_block(str(v.violation))}" for v in broken]
    parts += [_fold("All counterexamples", "\n\n".join(shown))] if shown else []
    return "\n\n".join(parts) + "\n"


def _fold(summary: str, text: str) -> str:
    """A part that is shown on a click. Its summary is HTML, the text between the empty lines Markdown."""
    return f"<details><summary>{escape(summary)}</summary>\n\n{text}\n\n</details>"


def _block(text: str) -> str:
    """Text as it is, between fences that are longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _table(head: str, rows: list[tuple[str, str]]) -> str:
    """Two columns, whose cells are Markdown already."""
    return "\n".join([head, "|---|---|", *(f"| {left} | {right} |" for left, right in rows)])


def _cause(cause: Cause) -> str:
    sentence, *rest = str(cause).splitlines()
    laws = "\n".join(f"- {plain(v.law.name)}" for v in cause.follow)
    more = "\n".join(words.strip() for words in rest)
    return f"## {WORDS[cause.severity]}: {plain(sentence)}\n\n{_block(more)}\n\n{_fold(cause.laws, laws)}"


def _findings(profile: Profile) -> list[str]:
    rows = [(AGREES[f.agrees], plain(f.sentence)) for f in profile.findings]
    return [f"## {MEASURED}", _table("| result | property |", rows)]


def _laws(report: Report) -> str:
    def row(v: LawVerdict) -> tuple[str, str]:
        return plain(verdict(report, v)), f"{plain(v.law.name)}<br>{as_card(plain(v.law.source))}"

    verdicts = ordered(report)
    return _fold(f"All {len(verdicts)} laws", _table("| result | law |", [row(v) for v in verdicts]))
