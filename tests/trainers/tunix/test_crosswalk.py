"""Every row of docs/crosswalk.md for Tunix, in the loss that its configurations select."""

import pytest
from support.trainers.crosswalk import Row, compare
from support.trainers.crosswalk_calls import in_jax
from support.trainers.crosswalk_rows import of

from integration.wild.hosts.tunix import loss


@pytest.mark.parametrize("row", of("Tunix"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    compare(row, in_jax(loss(row.kind, **row.settings)), rtol=1e-5)
