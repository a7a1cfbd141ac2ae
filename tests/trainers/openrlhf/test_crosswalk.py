"""Every row of docs/crosswalk.md for OpenRLHF, in its `PolicyLoss`."""

from typing import Any

import pytest
from support.trainers.crosswalk import Row, compare
from support.trainers.crosswalk_calls import in_torch
from support.trainers.crosswalk_rows import of
from support.trainers.crosswalk_stated import calls_with_default, check, text

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


def theirs(row: Row) -> Any:
    """Its loss for the settings of a row."""
    return in_torch(loss(**arguments(row.settings)))


@pytest.mark.parametrize("row", of("OpenRLHF"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    compare(row, theirs(row))


def test_what_the_page_states() -> None:
    """Defaults, rows without a token, names of metrics."""
    options = calls_with_default(text("openrlhf", "openrlhf/cli/train_ppo_ray.py"))
    files = ("ray/ppo_actor.py", "ppo_utils/experience_maker.py")
    check("OpenRLHF", theirs, options, *(text("openrlhf", f"openrlhf/trainer/{file}") for file in files))
