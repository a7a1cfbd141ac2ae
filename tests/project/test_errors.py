"""Every error of the packages: it names the argument first, says what was expected and what came, and nothing is unasserted."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.errors import rows as core
from support.errors import rows_of_calls as calls
from support.errors import rows_of_jax as jax_rows
from support.errors import rows_of_methods as methods
from support.errors import rows_of_metrics as readings
from support.errors import rows_of_routes as routes
from support.errors import rows_of_torch as torch_rows
from support.errors.names import begins_with_an_argument, names_of_arguments
from support.errors.places import FOLDERS, Place, Row, origin, raised, raises_of

TABLES = [
    *(core.NUMBERS, core.CHOICES, core.LAYOUTS),
    *(calls.POLICY_LOSS, calls.ADVANTAGES, calls.TERMS, readings.READINGS, readings.PLAN, torch_rows.TORCH, routes.ROUTES),
    jax_rows.JAX,
    methods.METHODS,
]
ROWS = [row for table in TABLES for row in table]
PLACES = [
    place
    for folder in FOLDERS
    for path in sorted(folder.rglob("*.py"))
    for place in raises_of(path)
    # A missing framework stops the import of its whole package: test_missing_extras.py. Adapters have tests/trainers.
    if not {"laws", "trainers"} & set(path.parts) and not place.text.startswith("raise ImportError(")
]


def in_order(fragments: tuple[str, ...], message: str) -> bool:
    """Whether the message begins with the first fragment, and has the others after it, one behind the other."""
    if not message.startswith(fragments[0]):
        return False
    at = 0
    for fragment in fragments:
        at = message.find(fragment, at)
        if at < 0:
            return False
        at += len(fragment)
    return True


def missing(places: list[Place], rows: list[Row]) -> list[str]:
    """Raise statements that no row reaches."""
    seen = {origin(raised(row)) for row in rows}
    return [f"{Path(p.file).name}:{p.first} {p.text}" for p in places if not any(p.holds(*at) for at in seen)]


@pytest.mark.parametrize("row", ROWS, ids=[f"{i} {row.says[0][:50]}" for i, row in enumerate(ROWS)])
def test_an_error_says_what_was_wrong(row: Row) -> None:
    error = raised(row)
    assert type(error) is row.kind
    assert in_order(row.says, str(error)), str(error)


@pytest.mark.slow
def test_a_wrong_argument_is_named_first() -> None:
    names = names_of_arguments()
    refusals = [str(raised(row)) for row in ROWS if row.kind in (TypeError, ValueError)]
    assert [said for said in refusals if not begins_with_an_argument(said, names)] == []


def test_what_is_no_argument_would_be_listed() -> None:
    assert begins_with_an_argument("low, high: expected", names_of_arguments())
    assert not begins_with_an_argument("with_clip: no clip range", names_of_arguments())
    assert not begins_with_an_argument("expected arrays of one library", names_of_arguments())


def test_no_error_is_without_a_row() -> None:
    assert len(PLACES) > 100
    assert missing(PLACES, ROWS) == []


def test_an_error_without_a_row_would_be_listed() -> None:
    (place,) = raises_of(Path(core.__file__), "if True:\n    raise ValueError('x: expected a y')\n")
    assert missing([place], ROWS[:3]) == ["rows.py:2 raise ValueError('x: expected a y')"]


def test_fragments_are_searched_in_order() -> None:
    assert in_order(("x: expected a y", "got z"), "x: expected a y, got z")
    assert not in_order(("got z", "x:"), "x: expected a y, got z")
    assert not in_order(("x:", "got z", "expected"), "x: expected a y, got z")
