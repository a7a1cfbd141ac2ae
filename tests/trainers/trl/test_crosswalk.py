"""Every row of docs/crosswalk.md for TRL, in the `_compute_loss` of its trainers."""

from typing import Any

import pytest
from support.trainers.crosswalk import REFERENCE, Row, compare
from support.trainers.crosswalk_calls import in_torch
from support.trainers.crosswalk_rows import of
from support.trainers.crosswalk_stated import check, text
from trl import GRPOConfig

from integration.wild.hosts.trl import loss


def theirs(row: Row) -> Any:
    """Its loss for the settings of a row."""
    gmpo = {"module": "trl.experimental.gmpo", "kind": "GMPO"} if row.kind == "GMPOConfig" else {}
    return in_torch(loss(**gmpo, reference=REFERENCE, **row.settings))


@pytest.mark.parametrize("row", of("TRL"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    compare(row, theirs(row))


def test_what_the_page_states() -> None:
    """Defaults, rows without a token, names of metrics."""
    check("TRL", theirs, GRPOConfig, text("trl", "trl/trainer/grpo_trainer.py"))
