"""Tunix: `grpo_loss_fn` with its own `GRPOConfig`, and log-probs in place of a model."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any
from unittest import mock

from gspo_core import GRPO, GSPO
from integration.wild.host import Host, Loss, Option

MODULES = {"GRPOConfig": "grpo.grpo", "DAPOConfig": "grpo.dapo", "DrGRPOConfig": "grpo.drgrpo", "PPOConfig": "ppo.ppo"}
"""Of `tunix.rl`, without `_learner`."""


def loss(kind: str = "GRPOConfig", reference: float | None = None, *, packed: bool = False, **settings: Any) -> Loss:
    """The loss that a configuration of the given class selects; if packed, with all responses in one row.

    With a KL term, `reference` times the old log-probs are those of the reference policy.
    """
    jax = importlib.import_module("jax")
    losses = importlib.import_module("tunix.rl.algo_core")
    learner = importlib.import_module(f"tunix.rl.{MODULES[kind]}_learner")
    config = getattr(learner, kind)(**{"beta": None if kind == "DAPOConfig" else 0.0, **settings})
    if kind != "PPOConfig":
        config.temperature = 1.0  # the learner sets it from the rollout's configuration
    function = importlib.import_module("tunix.rl.function_registry").get_policy_loss_fn(config.policy_loss_fn)

    def call(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        segments = {}
        if packed:
            ids = jax.numpy.broadcast_to(1 + jax.numpy.arange(mask.shape[0])[:, None], mask.shape)
            tokens = jax.numpy.broadcast_to(advantage[:, None], mask.shape)
            logp, old_logp, advantage, mask, ids = (x.reshape(1, -1) for x in (logp, old_logp, tokens, mask, ids))
            segments = {"segment_ids": ids * mask, "segment_positions": None}
        example = SimpleNamespace(
            **segments,
            prompt_ids=None,
            completion_ids=jax.numpy.zeros(mask.shape, dtype="int32"),
            completion_mask=mask,
            advantages=advantage[:, None] if kind == "PPOConfig" and advantage.ndim == 1 else advantage,  # GAE's are per token
            old_per_token_logps=old_logp,
            ref_per_token_logps=None if reference is None else reference * old_logp,
        )
        logits = jax.numpy.zeros((*mask.shape, 2))
        # The model is split and run by two functions of these modules; everything else is Tunix's own.
        split = mock.patch.object(losses.nnx, "split", return_value=(None, None))
        run = mock.patch.object(losses.common, "compute_per_token_logps", return_value=(logp, logits))
        with split, run:
            return function(None, example, algo_config=config, pad_id=0, eos_id=1)[0]

    return call


TUNIX = Host(
    "Tunix",
    "google-tunix",
    "grpo_loss_fn with a GRPOConfig of beta=0; log-probs in place of the model; responses not packed, but for one line",
    (
        Option("GRPOConfig(beta=0)", "the defaults: GRPO", loss, GRPO.with_clip(0.2, 0.2)),
        Option(
            'GRPOConfig(beta=0, loss_algo="gspo-token")',
            "the docstring of GRPOConfig",
            lambda: loss(loss_algo="gspo-token"),
            GSPO.with_clip(0.2, 0.2),
        ),
        Option(
            "the same, and the responses packed in one row, as with RLTrainingConfig(max_seq_token_per_tpu=...)",
            "the docstring of RLTrainingConfig",
            lambda: loss(packed=True, loss_algo="gspo-token"),
            GSPO.with_clip(0.2, 0.2),
        ),
    ),
    'set loss_algo="gspo-token" and beta=0, and do not pack sequences: a packed row has one ratio for all of its responses',
)
