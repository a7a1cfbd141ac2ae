"""OpenRLHF: `PolicyLoss`, from the text of its module, which imports deepspeed."""

from __future__ import annotations

import importlib
import typing
from typing import Any

from gspo_core import GSPO
from gspo_core.objectives import DAPO
from integration.wild.definitions import definitions
from integration.wild.host import Host, Loss, Option


def policy_loss(**settings: Any) -> Any:
    """A `PolicyLoss`."""
    torch = importlib.import_module("torch")
    given: dict[str, Any] = {"torch": torch, "nn": torch.nn, "Optional": typing.Optional}
    given |= definitions("openrlhf", "openrlhf/models/utils.py", ["masked_mean"], given)
    found = definitions("openrlhf", "openrlhf/models/loss.py", ["aggregate_loss", "PolicyLoss"], given)
    return found["PolicyLoss"](**settings)


def loss(**settings: Any) -> Loss:
    """The loss of one process whose micro-batch is the whole batch."""
    policy = policy_loss(**settings)

    def call(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        tokens = advantage if advantage.ndim == 2 else advantage[:, None].expand(mask.shape)
        return policy(logp, old_logp, tokens, action_mask=mask.to(logp.dtype))[0]

    return call


OPENRLHF = Host(
    "OpenRLHF",
    "openrlhf",
    "PolicyLoss, executed from the text of openrlhf/models/loss.py without its imports; one process, no global batch size",
    (
        Option("PolicyLoss()", "the defaults: PPO with a token mean", loss, DAPO.with_clip(0.2, 0.2)),
        Option(
            "--actor.policy_loss_type gspo",
            "the help of train_ppo_ray",
            lambda: loss(policy_loss_type="gspo"),
            GSPO.with_clip(0.2, 0.2),
        ),
    ),
    "set --actor.policy_loss_type gspo, which takes the mean over responses by itself, and the paper's range with "
    "--actor.eps_clip_low_high 3e-4 4e-4",
)
