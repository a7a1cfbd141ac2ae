"""Hostile answers to every task are judged; a few of them here, and the record of all of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from reasoning_gym.factory import DATASETS
from support.repository import ROOT

from integration.rewards.hostile import attack
from integration.rewards.hostile_answers import COUNT

RECORD = json.loads((ROOT / "docs" / "results" / "hostile-answers.json").read_text())


def assert_unharmed(row: dict[str, Any]) -> None:
    """Nothing was ended, touched, or scored outside [0, 1]."""
    assert row["answers"] == COUNT
    assert row["outside"] == 0
    assert row["files_kept"]
    assert row["solutions_as_before"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["string_insertion", "complex_arithmetic"])
def test_hostile_answers_end_nothing_and_change_nothing(name: str) -> None:
    row = attack(name, 0.1, seed=1)
    assert_unharmed(row)
    assert row["worker_starts"] == 1, "not even the worker was lost"
    assert not row["executes"] or {"exit", "time", "forbidden", "crash"} <= set(row["failures"])


def test_the_record_has_all_tasks_and_at_least_10_000_answers() -> None:
    assert {row["task"] for row in RECORD["tasks"]} == set(DATASETS)
    assert len(RECORD["tasks"]) == 106
    for row in RECORD["tasks"]:
        assert_unharmed(row)
    assert RECORD["answers"] == sum(row["answers"] for row in RECORD["tasks"]) >= 10_000
    assert all(cost["ms_each"] < 1.0 for cost in RECORD["cost"])
