"""Every row of docs/crosswalk.md for OpenRLHF, in its `PolicyLoss`."""

from typing import Any

import pytest
from support.trainers.crosswalk import Row, compare
from support.trainers.crosswalk_calls import in_torch
from support.trainers.crosswalk_rows import of

from integration.wild.hosts.openrlhf import loss


def arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Of PolicyLoss for options of train_ppo_ray, as openrlhf/trainer/ray/ppo_actor.py passes them."""
    low, high = options.get("eps_clip_low_high", (0.2, 0.2))
    return {
        "clip_eps_low": low,
        "clip_eps_high": high,
        "dual_clip": options.get("dual_clip"),
        "token_level_loss": options.get("loss_agg_mode", "token-mean") == "token-mean",
        "policy_loss_type": options.get("policy_loss_type", "ppo"),
    }


@pytest.mark.parametrize("row", of("OpenRLHF"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    compare(row, in_torch(loss(**arguments(row.settings))))
