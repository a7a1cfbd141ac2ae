"""Every row of docs/crosswalk.md for EasyDeL, in the loss inside its `grpo_step`."""

from typing import Any

import pytest
from support.trainers.crosswalk import REFERENCE, Row, compare
from support.trainers.crosswalk_calls import in_jax
from support.trainers.crosswalk_rows import of
from support.trainers.crosswalk_stated import calls_with_default, check, text

from integration.wild.hosts.easydel import loss

DEFAULTS: dict[str, dict[str, Any]] = {
    "GRPOConfig": {"epsilon": 0.2, "epsilon_high": 0.2},
    "GSPOConfig": {"epsilon": 3e-4, "epsilon_high": 4e-4, "loss_type": "grpo", "importance_sampling_level": "sequence"},
}
"""What its trainer passes to `grpo_step`."""


def theirs(row: Row) -> Any:
    """Its loss for the settings of a row."""
    return in_jax(loss(REFERENCE, **{**DEFAULTS[row.kind], **row.settings}))


@pytest.mark.parametrize("row", of("EasyDeL"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    compare(row, theirs(row), rtol=1e-5)


def test_what_the_page_states() -> None:
    """Defaults, rows without a token, names of metrics."""
    folder = "easydel/trainers/group_relative_policy_optimization/"
    options = calls_with_default(text("easydel", folder + "grpo_config.py"))
    check("EasyDeL", theirs, options, text("easydel", folder + "_fn.py"), text("easydel", folder + "grpo_trainer.py"))
