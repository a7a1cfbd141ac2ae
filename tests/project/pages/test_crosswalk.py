"""docs/crosswalk.md has exactly the rows that tests/trainers/*/test_crosswalk.py execute, and states what they look up."""

import itertools
import re

import numpy as np
import pytest
from support.pages import DOCS, section
from support.repository import ROOT
from support.trainers.crosswalk import SPREADS, Row, batch, here, objective, written
from support.trainers.crosswalk_page import HOSTS, defaults, table
from support.trainers.crosswalk_rows import ROWS
from support.trainers.crosswalk_rows.stated import ADVANTAGES, DEFAULTS, EMPTY_ROWS, METRICS

from gspo_core import Objective

PAGE = (DOCS / "crosswalk.md").read_text(encoding="utf-8")
HEADINGS = {heading.rsplit(" ", 1)[0]: heading for heading in re.findall(r"^## (.+ \d[\d.]+)$", PAGE, flags=re.MULTILINE)}
PACKAGES = {"Liger-Kernel": "liger-kernel", "Tunix": "google-tunix"}


def lines(heading: str, first: str) -> list[str]:
    """The table of a section whose header begins with a word, without its head."""
    rows = [line for line in section(PAGE, heading).splitlines() if line.startswith("|")]
    start = next(i for i, line in enumerate(rows) if line.startswith(f"| {first}"))
    return list(itertools.takewhile(lambda line: line.startswith("| "), rows[start + 2 :]))


@pytest.mark.parametrize("host", HOSTS)
def test_the_rows_and_the_defaults_of_a_trainer(host: str) -> None:
    """If this fails: `PYTHONPATH=.:tests python -m support.trainers.crosswalk_page` prints what belongs on the page."""
    text = section(PAGE, HEADINGS[host])
    assert "\n".join(table(host)) in text
    assert len(lines(HEADINGS[host], "set there")) == len(table(host)) - 2 > 2
    assert defaults(host) in text


def test_the_sections_are_the_trainers_and_their_versions_the_pinned_ones() -> None:
    pinned = "\n".join((ROOT / "tests" / "trainers" / name).read_text() for name in PINS)
    assert list(HEADINGS) == HOSTS
    for host, heading in HEADINGS.items():
        assert f"{PACKAGES.get(host, host.lower())}=={heading.rsplit(' ', 1)[1]}" in pinned.splitlines(), heading


PINS = ("requirements.txt", "without-dependencies.txt")


def test_the_table_of_defaults_has_what_is_looked_up() -> None:
    cells = {line.split(" | ")[0].lstrip("| "): line.split(" | ") for line in lines("What the defaults compute", "trainer")}
    assert set(cells) == set(EMPTY_ROWS) == set(DEFAULTS)
    assert {host: row[2] for host, row in cells.items()} == EMPTY_ROWS
    for host, normaliser in ADVANTAGES.items():
        assert normaliser in cells[host][5]


def test_the_table_of_metrics_has_the_names_that_are_looked_up() -> None:
    header = PAGE[PAGE.index("| here |") :].splitlines()[0]
    rows = [line.split("|") for line in lines("Names of metrics", "here")]
    for host, names in METRICS.items():
        column = header.split("|").index(f" {host} ")
        found = {name for row in rows for name in re.findall(r"`([^`]+)`", row[column])}
        assert found == set(names), host


def test_every_expression_is_an_objective_or_calls() -> None:
    named = [objective(row) for row in ROWS]
    assert all(isinstance(found, Objective) for found in named if found is not None)
    assert sum(found is None for found in named) < len(ROWS) / 4


SAME = {frozenset({"GSPO", "GSPO_TOKEN"})}
"""With one advantage per response."""


def test_the_batches_tell_the_expressions_apart() -> None:
    """Else a wrong expression could be equal to the trainer's loss: all that are not the same have other gradients."""
    rows: dict[str, Row] = {row.ours: row for row in ROWS}
    found = {ours: np.concatenate([here(row, batch(x)).grad for x in SPREADS]) for ours, row in rows.items()}
    assert len(found) > 40
    for (first, a), (second, b) in itertools.combinations(found.items(), 2):
        equal = objective(rows[first]) == objective(rows[second]) is not None or frozenset({first, second}) in SAME
        near = np.abs(a - b).max() < 1e-3 * max(np.abs(a).max(), np.abs(b).max())
        assert near == equal, (first, second)


def test_the_readme_counts_the_rows() -> None:
    assert f"{len(ROWS)} settings of eight trainers" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(HOSTS) == 8


def test_settings_are_written_as_a_user_writes_them() -> None:
    shown = {row.host: written(row) for row in ROWS if row.settings}
    assert all("=" in words or words.startswith("--") for words in shown.values())
    assert not any("None" in written(row) for row in ROWS)
