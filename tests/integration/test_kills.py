"""A run that is killed at random moments, also while it saves, ends bit for bit as one that nobody disturbed.

A few kills here; tests/support/runs/kills.py takes any number.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.runs.kills import Killer

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("script", ["train_torch", "train_jax"])
def test_a_run_that_is_killed_and_resumed_ends_as_an_undisturbed_one(script: str, tmp_path: Path) -> None:
    killer = Killer(script, tmp_path, seed=1)
    killer.kill(2)
    assert killer.different == []
    assert killer.kills == 2
