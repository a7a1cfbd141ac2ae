"""SkyRL: `gspo_policy_loss` on advantages that its trainer has scaled, from the text of its module."""

from __future__ import annotations

import dataclasses
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


FUNCTIONS = {
    "regular": "ppo_policy_loss",
    "dual_clip": "ppo_policy_loss",
    "gspo": "gspo_policy_loss",
    "cispo": "compute_policy_loss_cispo",
    "sapo": "sapo_policy_loss",
    "rollout_is": "rollout_is_policy_loss",
    "importance_sampling": "importance_sampling_loss",
    "dppo": "dppo_policy_loss",
    "clip_cov": "compute_policy_loss_clip_cov",
    "kl_cov": "compute_policy_loss_kl_cov",
}
"""As `PolicyLossRegistry.repopulate_registry` has them."""
GROUPS = ("sapo", "cispo", "dppo", "clip_cov", "kl_cov", "off_policy_correction")
"""Options of `AlgorithmConfig` that are configurations themselves."""


def settings_of(**settings: Any) -> SimpleNamespace:
    """An `AlgorithmConfig` with its defaults, from the text of its module; a dictionary for the options of a group."""
    given: dict[str, Any] = {"dataclass": dataclasses.dataclass, "field": dataclasses.field, "BaseConfig": object}
    given |= {"Optional": typing.Optional, "Dict": dict, "Any": Any, "KLCtrlConfig": SimpleNamespace}
    names = {"sapo": "SAPOConfig", "cispo": "CISPOConfig", "dppo": "DPPOConfig"}
    names |= {"clip_cov": "ClipCovConfig", "kl_cov": "KLCovConfig", "off_policy_correction": "OffPolicyCorrectionConfig"}
    names |= {"dynamic_sampling": "DynamicSamplingConfig", "": "AlgorithmConfig"}
    found = definitions("skyrl", "skyrl/train/config/config.py", names.values(), given)

    def defaults(name: str) -> dict[str, Any]:
        return {k: v for k, v in vars(found[names[name]]).items() if k in found[names[name]].__annotations__}

    grouped = {name: SimpleNamespace(**{**defaults(name), **settings.pop(name, {})}) for name in GROUPS}
    return SimpleNamespace(**{**defaults(""), **grouped, **settings})


def loss(prompt_size: int = 2, **settings: Any) -> Loss:
    """The loss of a mini-batch of one micro-batch, after the step that scales advantages by the reduction."""
    torch = importlib.import_module("torch")
    types = {name: getattr(typing, name) for name in ("List", "Optional", "Tuple")}
    given: dict[str, Any] = {"torch": torch, **types}
    given |= definitions("skyrl", HOME + "torch_utils.py", ["masked_mean", "safe_exp_delta"], given)
    corrections = ["off_policy_correction_enabled", "compute_off_policy_correction", "apply_off_policy_correction"]
    given |= definitions("skyrl", HOME + "off_policy_correction_utils.py", corrections, given)
    config = settings_of(**settings)
    name = FUNCTIONS[config.policy_loss_type]
    found = definitions("skyrl", HOME + "ppo_utils.py", [name, "reduce_loss", SCALE], given)
    quiet = SimpleNamespace(logger=logging.Logger(__name__, logging.ERROR))  # it warns about its reduction at every call

    def call(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        tokens = advantage if advantage.ndim == 2 else advantage[:, None].expand(mask.shape)
        prompts = [(start, start + prompt_size) for start in range(0, len(mask), prompt_size)]
        longest = config.max_seq_len or mask.shape[1]
        scaled = found[SCALE](tokens, mask, config.loss_reduction, len(mask), longest, prompts)
        with mock.patch.dict("sys.modules", loguru=quiet):
            return found[name](logp, old_logp, scaled, config, mask, old_logp)[0]

    return call


LIKE = GSPO.with_clip(0.2, 0.2)
SKYRL = Host(
    "SkyRL",
    "skyrl",
    f"gspo_policy_loss after {SCALE}, executed from the text of its files without their imports; one micro-batch",
    (
        Option("AlgorithmConfig()", "the defaults: PPO with a token mean", loss, DAPO.with_clip(0.2, 0.2)),
        Option(
            "policy_loss_type=gspo",
            "the option alone, loss_reduction at its default",
            lambda: loss(policy_loss_type="gspo"),
            LIKE,
        ),
        Option(
            "policy_loss_type=gspo, loss_reduction=sequence_mean",
            "its example run_gspo_gsm8k.sh",
            lambda: loss(policy_loss_type="gspo", loss_reduction="sequence_mean"),
            LIKE,
        ),
        Option(
            "the same, and rows without a token left out",
            "the advice below",
            lambda: without_empty_rows(loss(policy_loss_type="gspo", loss_reduction="sequence_mean")),
            LIKE,
        ),
    ),
    "set loss_reduction=sequence_mean; the mean is over all rows, so let no row of a mini-batch be without a token",
)
