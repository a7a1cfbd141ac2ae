"""Every row of docs/crosswalk.md for EasyDeL, in the loss inside its `grpo_step`."""

from typing import Any

import pytest
from support.trainers.crosswalk import Row, compare
from support.trainers.crosswalk_calls import in_jax
from support.trainers.crosswalk_rows import of

from integration.wild.hosts.easydel import loss

DEFAULTS: dict[str, dict[str, Any]] = {
    "GRPOConfig": {"epsilon": 0.2, "epsilon_high": 0.2},
    "GSPOConfig": {"epsilon": 3e-4, "epsilon_high": 4e-4, "loss_type": "grpo", "importance_sampling_level": "sequence"},
}
"""What its trainer passes to `grpo_step`."""


@pytest.mark.parametrize("row", of("EasyDeL"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    compare(row, in_jax(loss(**{**DEFAULTS[row.kind], **row.settings})), rtol=1e-5)
