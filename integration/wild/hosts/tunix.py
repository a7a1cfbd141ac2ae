"""Tunix: `grpo_loss_fn` with its own `GRPOConfig`, and log-probs in place of a model."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any
from unittest import mock

from gspo_core import GRPO, GSPO
from integration.wild.host import Host, Loss, Option


def loss(**settings: Any) -> Loss:
    """The loss without a KL term, on responses that are not packed."""
    jax = importlib.import_module("jax")
    losses = importlib.import_module("tunix.rl.algo_core")
    config = importlib.import_module("tunix.rl.grpo.grpo_learner").GRPOConfig(beta=0.0, **settings)
    config.temperature = 1.0  # the learner sets it from the rollout's configuration

    def call(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        example = SimpleNamespace(
            prompt_ids=None,
            completion_ids=jax.numpy.zeros(mask.shape, dtype="int32"),
            completion_mask=mask,
            advantages=advantage,
            old_per_token_logps=old_logp,
            ref_per_token_logps=None,
        )
        logits = jax.numpy.zeros((*mask.shape, 2))
        # The model is split and run by two functions of these modules; everything else is Tunix's own.
        split = mock.patch.object(losses.nnx, "split", return_value=(None, None))
        run = mock.patch.object(losses.common, "compute_per_token_logps", return_value=(logp, logits))
        with split, run:
            return losses.grpo_loss_fn(None, example, config, 0, 1)[0]

    return call


TUNIX = Host(
    "Tunix",
    "google-tunix",
    "grpo_loss_fn with a GRPOConfig of beta=0; log-probs in place of the model, responses not packed",
    (
        Option("GRPOConfig(beta=0)", "the defaults: GRPO", loss, GRPO.with_clip(0.2, 0.2)),
        Option(
            'GRPOConfig(beta=0, loss_algo="gspo-token")',
            "the docstring of GRPOConfig",
            lambda: loss(loss_algo="gspo-token"),
            GSPO.with_clip(0.2, 0.2),
        ),
    ),
    'set loss_algo="gspo-token" and beta=0, and do not pack sequences: a packed row has one ratio for all of its responses',
)
