"""The rows of docs/crosswalk.md that are executed, and what the page states of each trainer that a test can look up.

`tests/trainers/<trainer>/test_crosswalk.py` executes them in the trainer's own code, tests/project/pages/test_crosswalk.py
compares them with the page. The clip range is the trainer's default, 0.2, unless a row sets it.
"""

from __future__ import annotations

from typing import Any

import pytest
from support.trainers.crosswalk import Row, written
from support.trainers.crosswalk_rows.others import EASYDEL, OPENRLHF, TORCHRL, TUNIX
from support.trainers.crosswalk_rows.skyrl import SKYRL
from support.trainers.crosswalk_rows.trl import LIGER, TRL
from support.trainers.crosswalk_rows.verl import VERL

ROWS: list[Row] = [*TRL, *VERL, *OPENRLHF, *SKYRL, *TUNIX, *TORCHRL, *LIGER, *EASYDEL]
"""Every row, by trainer in the order of the page."""


def of(host: str) -> list[Any]:
    """The rows of one trainer, each with a readable name, for pytest."""
    return [pytest.param(row, id=written(row)) for row in ROWS if row.host == host]
