"""Every row of docs/crosswalk.md for verl, in the function that its registry returns."""

import pytest
from support.trainers.crosswalk import Row, compare
from support.trainers.crosswalk_calls import in_torch, nested
from support.trainers.crosswalk_rows import of

from integration.wild.hosts.verl import loss


@pytest.mark.parametrize("row", of("verl"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    settings = nested(row.settings)
    mode = settings.get("policy_loss", {}).get("loss_mode", "vanilla")
    compare(row, in_torch(loss(mode, **settings)))
