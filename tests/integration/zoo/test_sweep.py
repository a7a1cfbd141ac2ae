"""A family that dies or hangs is one row of the sweep."""

from __future__ import annotations

import os
import time

import pytest

from integration.tasks.task import Task
from integration.zoo import sweep
from integration.zoo.trial import Trial


def stand_in(family: str, _: Task) -> Trial:
    if family == "dies":
        os._exit(7)
    if family == "hangs":
        time.sleep(60)
    return Trial(family, "right")


@pytest.mark.slow
def test_a_family_that_dies_or_hangs_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "try_family", stand_in)
    nothing = Task("nothing", [], [], lambda *_: 0.0)
    monkeypatch.setattr(sweep, "sweep_task", lambda: nothing)
    rows = list(sweep.sweep(["a", "dies", "hangs", "b"], seconds=1.0))
    assert [row.verdict for row in rows] == ["right", "traceback", "out of time", "right"]
    assert rows[1].reason == "the process died with status 7"


def test_every_family_of_transformers_is_swept_once() -> None:
    assert len(sweep.families()) == len(set(sweep.families())) > 150
