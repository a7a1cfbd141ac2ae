"""Every row of docs/crosswalk.md for TRL, in the `_compute_loss` of its trainers."""

import pytest
from support.trainers.crosswalk import Row, compare
from support.trainers.crosswalk_calls import in_torch
from support.trainers.crosswalk_rows import of

from integration.wild.hosts.trl import loss


@pytest.mark.parametrize("row", of("TRL"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    gmpo = {"module": "trl.experimental.gmpo", "kind": "GMPO"} if row.kind == "GMPOConfig" else {}
    compare(row, in_torch(loss(**gmpo, **row.settings)))
