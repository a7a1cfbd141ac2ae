"""Every row of docs/crosswalk.md for OpenRLHF, in its `PolicyLoss`."""

from typing import Any

import pytest
import torch
from support.trainers.crosswalk import WIDE, Row, batch, compare
from support.trainers.crosswalk_calls import in_torch
from support.trainers.crosswalk_rows import of
from support.trainers.crosswalk_stated import calls_with_default, check, numbers, text

from gspo_core.objectives import BNPO
from integration.wild.hosts.openrlhf import loss, policy_loss


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


def test_the_metrics_that_the_page_puts_beside_ours() -> None:
    given, ours = batch(WIDE), numbers(BNPO.with_clip(0.2, 0.2))
    logp, old, tokens, mask = (
        torch.tensor(x) for x in (given.logp, given.old_logp, given.A[:, None] * given.mask, given.mask * 1.0)
    )
    _, clip_ratio, kl, *_ = policy_loss()(logp, old, tokens, action_mask=mask)
    assert 0.2 < ours["clip_active_tokens"] < 0.8
    assert ours["clip_active_tokens"] == pytest.approx(float(clip_ratio), rel=1e-6)
    assert ours["kl_k1_per_token"] == pytest.approx(float(kl), rel=1e-6)
