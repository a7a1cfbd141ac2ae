"""A new run."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.options.config import Config
from integration.records.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A new run."""
    run = RunFolder(tmp_path / "run", keep_checkpoints=2)
    run.create(Config().to_json())
    return run
