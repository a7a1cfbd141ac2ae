"""Every row of docs/crosswalk.md for verl, in the function that its registry returns."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from support.trainers.crosswalk import WIDE, Row, batch, compare
from support.trainers.crosswalk_calls import in_torch, nested
from support.trainers.crosswalk_rows import of
from support.trainers.crosswalk_stated import check, check_advantages, numbers, text
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.workers.config import ActorConfig
from verl.workers.config.actor import PolicyLossConfig

from gspo_core.objectives import BNPO
from integration.wild.hosts.verl import loss


def theirs(row: Row) -> Any:
    """Its loss for the settings of a row."""
    settings = nested(row.settings)
    mode = settings.get("policy_loss", {}).get("loss_mode", "vanilla")
    return in_torch(loss(mode, **settings))


@pytest.mark.parametrize("row", of("verl"))
def test_a_row_of_the_crosswalk(row: Row) -> None:
    compare(row, theirs(row))


def test_what_the_page_states() -> None:
    """Defaults, rows without a token, names of metrics."""
    defaults = {field.name: field.default for field in dataclasses.fields(ActorConfig)}
    defaults["policy_loss.loss_mode"] = PolicyLossConfig().loss_mode
    files = ("trainer/ppo/core_algos.py", "workers/utils/losses.py", "trainer/ppo/ray_trainer.py")
    check("verl", theirs, defaults, *(text("verl", f"verl/{file}") for file in files))


def test_the_advantages_that_the_page_states() -> None:
    def advantages(rewards: Any) -> Any:
        tokens = torch.nn.functional.pad(torch.tensor(rewards)[:, None], (1, 0))  # the reward is that of the last of two tokens
        return compute_grpo_outcome_advantage(tokens, torch.ones(12, 2), np.repeat([0, 1, 2], 4))[0][:, 0].numpy()

    check_advantages("verl", advantages)


def test_the_metrics_that_the_page_puts_beside_ours() -> None:
    given, ours = batch(WIDE), numbers(BNPO.with_clip(0.2, 0.2))
    _, found = loss("vanilla")(*(torch.tensor(x) for x in (given.logp, given.old_logp, given.A, given.mask)))
    assert 0.2 < ours["clip_active_tokens"] < 0.8
    for name, theirs_name in {"clip_active_tokens": "actor/pg_clipfrac", "kl_k1_per_token": "actor/ppo_kl"}.items():
        assert ours[name] == pytest.approx(found[theirs_name], rel=1e-6), name
