"""SkyRL: `gspo_policy_loss` on advantages that its trainer has scaled, from the text of its module."""

from __future__ import annotations

import importlib
import logging
import typing
from types import SimpleNamespace
from typing import Any
from unittest import mock

from gspo_core import GSPO
from gspo_core.objectives import DAPO
from integration.wild.definitions import definitions
from integration.wild.host import Host, Loss, Option, without_empty_rows

HOME = "skyrl/backends/skyrl_train/utils/"
SCALE = "apply_loss_reduction_to_advantages_minibatch"


def loss(policy_loss_type: str = "regular", loss_reduction: str = "token_mean") -> Loss:
    """The loss of a mini-batch of one micro-batch, after the step that scales advantages by the reduction."""
    torch = importlib.import_module("torch")
    types = {name: getattr(typing, name) for name in ("List", "Optional", "Tuple")}
    given: dict[str, Any] = {"torch": torch, **types}
    given |= definitions("skyrl", HOME + "torch_utils.py", ["masked_mean", "safe_exp_delta"], given)
    given |= definitions("skyrl", HOME + "off_policy_correction_utils.py", ["apply_off_policy_correction"], given)
    name = {"regular": "ppo_policy_loss", "gspo": "gspo_policy_loss"}[policy_loss_type]
    found = definitions("skyrl", HOME + "ppo_utils.py", [name, "reduce_loss", SCALE], given)
    config = SimpleNamespace(
        policy_loss_type=policy_loss_type,
        loss_reduction=loss_reduction,
        eps_clip_low=0.2,
        eps_clip_high=0.2,
        off_policy_correction=None,
    )
    quiet = SimpleNamespace(logger=logging.Logger(__name__, logging.ERROR))  # it warns about its reduction at every call

    def call(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        tokens = advantage if advantage.ndim == 2 else advantage[:, None].expand(mask.shape)
        scaled = found[SCALE](tokens, mask, loss_reduction, len(mask), mask.shape[1])
        with mock.patch.dict("sys.modules", loguru=quiet):
            return found[name](logp, old_logp, scaled, config, mask)[0]

    return call


LIKE = GSPO.with_clip(0.2, 0.2)
SKYRL = Host(
    "SkyRL",
    "skyrl",
    f"gspo_policy_loss after {SCALE}, executed from the text of its files without their imports; one micro-batch",
    (
        Option("AlgorithmConfig()", "the defaults: PPO with a token mean", loss, DAPO.with_clip(0.2, 0.2)),
        Option("policy_loss_type=gspo", "the option alone, loss_reduction at its default", lambda: loss("gspo"), LIKE),
        Option(
            "policy_loss_type=gspo, loss_reduction=sequence_mean",
            "its example run_gspo_gsm8k.sh",
            lambda: loss("gspo", "sequence_mean"),
            LIKE,
        ),
        Option(
            "the same, and rows without a token left out",
            "the advice below",
            lambda: without_empty_rows(loss("gspo", "sequence_mean")),
            LIKE,
        ),
    ),
    "set loss_reduction=sequence_mean; the mean is over all rows, so let no row of a mini-batch be without a token",
)
