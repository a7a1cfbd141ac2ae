"""Every row of docs/crosswalk.md for SkyRL, in its policy losses after the step that scales advantages."""

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from support.trainers.crosswalk import Row, compare
from support.trainers.crosswalk_calls import in_torch, nested
from support.trainers.crosswalk_rows import of
from support.trainers.crosswalk_stated import check, check_advantages, text

from integration.wild.definitions import definitions
from integration.wild.hosts.skyrl import HOME, loss, settings_of


def theirs(row: Row) -> Any:
    """Its loss for the settings of a row."""
    return in_torch(loss(**nested(row.settings)))


@pytest.mark.parametrize("row", of("SkyRL"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    compare(row, theirs(row))


def test_what_the_page_states() -> None:
    """Defaults, rows without a token, names of metrics."""
    files = ("workers/worker.py", "utils/ppo_utils.py", "utils/off_policy_correction_utils.py")
    texts = (text("skyrl", f"skyrl/backends/skyrl_train/{file}") for file in files)
    check("SkyRL", theirs, settings_of(), *texts)


def test_the_advantages_that_the_page_states() -> None:
    def advantages(rewards: Any) -> Any:
        given = {"torch": torch, "np": np, "defaultdict": defaultdict}
        function = definitions("skyrl", HOME + "ppo_utils.py", ["compute_grpo_outcome_advantage"], given)
        tokens = torch.nn.functional.pad(torch.tensor(rewards)[:, None], (1, 0))  # the reward is that of the last of two tokens
        return function["compute_grpo_outcome_advantage"](tokens, torch.ones(12, 2), np.repeat([0, 1, 2], 4))[0][:, 0].numpy()

    check_advantages("SkyRL", advantages)
