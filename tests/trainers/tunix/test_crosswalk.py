"""Every row of docs/crosswalk.md for Tunix, in the loss that its configurations select."""

from typing import Any

import pytest
from support.trainers.crosswalk import REFERENCE, Row, compare
from support.trainers.crosswalk_calls import in_jax
from support.trainers.crosswalk_rows import of
from support.trainers.crosswalk_stated import check, check_advantages, text
from tunix.rl.algo_core import compute_advantages
from tunix.rl.grpo.grpo_learner import GRPOConfig

from integration.wild.hosts.tunix import loss


def theirs(row: Row) -> Any:
    """Its loss for the settings of a row."""
    return in_jax(loss(row.kind, REFERENCE if row.settings.get("beta") else None, **row.settings))


@pytest.mark.parametrize("row", of("Tunix"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    compare(row, theirs(row), rtol=1e-5)


def test_what_the_page_states() -> None:
    """Defaults, rows without a token, names of metrics."""
    check("Tunix", theirs, GRPOConfig, text("google-tunix", "tunix/rl/algo_core.py"))


def test_the_advantages_that_the_page_states() -> None:
    check_advantages("Tunix", lambda rewards: compute_advantages(rewards, num_generations=4))
