"""Every row of docs/crosswalk.md for SkyRL, in its policy losses after the step that scales advantages."""

import pytest
from support.trainers.crosswalk import Row, compare
from support.trainers.crosswalk_calls import in_torch, nested
from support.trainers.crosswalk_rows import of

from integration.wild.hosts.skyrl import loss


@pytest.mark.parametrize("row", of("SkyRL"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    compare(row, in_torch(loss(**nested(row.settings))))
