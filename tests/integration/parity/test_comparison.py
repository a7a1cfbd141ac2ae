"""A trainer's run beside the reference updates: what is off first is named, with its update, and nothing else is."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integration.parity import comparison
from integration.parity.comparison import ASK, FIELDS, FLOOR, MARGIN, compare
from integration.parity.reference import CLIP, Run, load

GOLDEN = load()
EXACT = [dataclasses.asdict(update) for update in GOLDEN.float64.updates]
ALLOWED = {(d.update, d.what): d.allowed for d in compare(EXACT, GOLDEN).deviations}
BOUNDS = math.log1p(-CLIP.low), math.log1p(CLIP.high)


def off(index: int, what: str, size: float) -> list[dict[str, Any]]:
    """The float64 run with one number of one update moved by `size`."""
    updates, field = [*EXACT[:index], copy.deepcopy(EXACT[index]), *EXACT[index + 1 :]], FIELDS[what]
    update = updates[index]
    if what == "log s":
        update[field][-1] += size
    elif what == "parameters":
        update[field]["model.norm.weight"] -= size
    else:
        update[field] += size * (update[field] if what == "gradient norm" else 1.0)
    return updates


steps = st.integers(0, 19)


@given(steps, st.sampled_from(list(FLOOR)), st.floats(1.01, 1e6), st.booleans())
def test_one_number_of_one_update_is_named(index: int, what: str, size: float, up: bool) -> None:
    """And it is the only one that is off; half of what is allowed is nothing."""
    allowed = ALLOWED[index, what]
    found = compare(off(index, what, allowed * size * (1 if up else -1)), GOLDEN)
    assert found.first is not None
    assert (found.first.update, found.first.what) == (index, what)
    assert [d for d in found.deviations if d.beyond] == [found.first]
    assert f"update {index + 1}: {what} off by" in str(found)
    assert ASK[what] in str(found)
    assert compare(off(index, what, 0.5 * allowed), GOLDEN).ok


@pytest.mark.parametrize(("what", "field"), [("loss", "loss"), ("gradient norm", "grad_norm")])
def test_budgets_grow_as_the_docstring_says_and_stay_small(what: str, field: str) -> None:
    """4 times PyTorch's worst so far, plus the worst of longer steps so far, plus 8 units of float32's rounding."""
    narrow = longer = 0.0
    for index, exact in enumerate(EXACT):
        size = exact[field] if what == "gradient norm" else 1.0
        narrow = max(narrow, abs(getattr(GOLDEN.float32.updates[index], field) - exact[field]) / size)
        longer = max(longer, abs(getattr(GOLDEN.longer[index], field) - exact[field]) / size)
        assert ALLOWED[index, what] == pytest.approx(4 * narrow + longer + 8 * 2**-23, rel=1e-12)
    assert max(ALLOWED.values()) < 2e-4


@given(steps, st.data())
def test_a_clip_decision_is_named_unless_it_is_at_the_bound(index: int, data: st.DataObject) -> None:
    updates = [*EXACT[:index], copy.deepcopy(EXACT[index]), *EXACT[index + 1 :]]
    row = data.draw(st.integers(0, len(updates[index]["clipped"]) - 1))
    updates[index]["clipped"][row] ^= True
    distance = min(abs(updates[index]["log_s"][row] - bound) for bound in BOUNDS)
    found = compare(updates, GOLDEN)
    assert found.ok is (distance <= MARGIN)
    if distance > MARGIN:
        assert str(found.first).startswith(f"update {index + 1}: clip decisions off by")


@given(steps, steps, st.sampled_from(list(FLOOR)), st.sampled_from(list(FLOOR)))
def test_of_two_the_earlier_one_is_first(one: int, other: int, what: str, later: str) -> None:
    """By the update, then by the order in which an update computes its numbers."""
    both = off(one, what, 2 * ALLOWED[one, what])
    both[other] = dict(both[other])
    both[other][FIELDS[later]] = off(other, later, 2 * ALLOWED[other, later])[other][FIELDS[later]]
    first = compare(both, GOLDEN).first
    order = list(FIELDS)
    assert first is not None
    assert (first.update, first.what) == min((one, what), (other, later), key=lambda x: (x[0], order.index(x[1])))


@given(steps, st.sampled_from(["loss", "grad_norm"]))
def test_nan_is_beyond_every_budget(index: int, field: str) -> None:
    updates = [*EXACT[:index], {**EXACT[index], field: math.nan}, *EXACT[index + 1 :]]
    found = compare(updates, GOLDEN)
    assert found.first is not None
    assert FIELDS[found.first.what] == field


@given(st.sets(st.sampled_from(list(FIELDS)), min_size=1))
def test_what_is_not_recorded_is_not_compared_and_said(kept: set[str]) -> None:
    updates = [{FIELDS[what]: update[FIELDS[what]] for what in kept} for update in EXACT]
    found = compare(updates, GOLDEN)
    assert found.ok
    assert set(found.missing) == set(FIELDS) - kept
    assert all(what in str(found) for what in found.missing)


def test_parameters_at_the_end_are_compared_entry_by_entry() -> None:
    """A transposed tensor of the same marks would be seen."""
    name, values = next((k, v) for k, v in GOLDEN.float64.parameters.items() if v.ndim == 2)
    run = Run(GOLDEN.float64.updates, {**GOLDEN.float64.parameters, name: values[::-1]})
    found = compare(run, GOLDEN)
    assert str(found.first).startswith(f"after the last update: {name} off by")


WRONG: list[tuple[list[dict[str, Any]], str]] = [
    (EXACT[:3], "updates: expected 20, got 3"),
    ([{**EXACT[0], "log_s": [0.0]}, *EXACT[1:]], "log_s of update 1: expected 8 responses, got 1"),
    ([*EXACT[:19], {**EXACT[19], "marks": {"other": 1.0}}], "marks of update 20: expected the names of the checkpoint"),
]


@pytest.mark.parametrize(("updates", "words"), WRONG)
def test_a_run_of_another_shape_is_refused(updates: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compare(updates, GOLDEN)


def test_the_command_reads_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for updates, status, words in ((EXACT, 0, "0 beyond"), (off(6, "loss", 0.1), 1, "The first: update 7: loss off by 0.1")):
        (tmp_path / "updates.json").write_text(json.dumps(updates))
        monkeypatch.setattr(sys, "argv", ["comparison", str(tmp_path / "updates.json")])
        assert comparison.main() == status
        assert words in capsys.readouterr().out
