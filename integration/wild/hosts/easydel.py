"""EasyDeL: the loss inside `grpo_step`, from the text of its module, and log-probs in place of a model."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

from gspo_core import GSPO
from gspo_core.objectives import DAPO
from integration.wild.definitions import definitions
from integration.wild.host import Host, Loss, Option

FILE = "easydel/trainers/group_relative_policy_optimization/_fn.py"


def loss(reference: float = 1.0, **settings: Any) -> Loss:
    """The loss that an evaluation step returns, without a KL term unless `beta` is given.

    With a KL term, `reference` times the old log-probs are those of the reference policy.
    """
    jax = importlib.import_module("jax")
    given = {
        "jax": jax,
        "jnp": jax.numpy,
        "make_assertions_and_get_sizes": lambda **_: (1, 1, None),
        "with_sharding_constraint": lambda arr, **_: arr,
        "extract_generation_model_kwargs": lambda *_, **__: {},
        "repeat_prompt_aligned_model_kwargs": lambda *_, **__: {},
        "LossMetrics": SimpleNamespace,
        "get_per_token_logps": lambda module, *_, **__: module.logp,
    }
    step = definitions("easydel", FILE, ["grpo_step"], given)["grpo_step"]

    def call(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
        model = SimpleNamespace(logp=logp, __call__=None)
        ids = jax.numpy.zeros(mask.shape, dtype="int32")
        batch = {
            "prompt_ids": ids[:, :0],
            "prompt_mask": ids[:, :0],
            "completion_ids": ids,
            "completion_mask": mask.astype("int32"),
            "advantages": advantage,
            "old_per_token_logps": old_logp,
            "ref_per_token_logps": reference * old_logp,
        }
        state = SimpleNamespace(merge=lambda _: model, graphstate=None)
        return step(state, batch, num_generations=1, is_training=False, **{"beta": 0.0, **settings}).loss

    return call


EASYDEL = Host(
    "EasyDeL",
    "easydel",
    "the loss inside grpo_step, executed from the text of its file without its imports; log-probs in place of the model",
    (
        Option(
            "GRPOConfig(beta=0)",
            "the defaults: token-level DAPO",
            lambda: loss(epsilon=0.2, epsilon_high=0.2),
            DAPO.with_clip(0.2, 0.2),
        ),
        Option(
            "GSPOConfig()",
            "the defaults of GSPOConfig",
            lambda: loss(loss_type="grpo", epsilon=3e-4, epsilon_high=4e-4, importance_sampling_level="sequence"),
            GSPO,
        ),
    ),
    "no setting gives it in this version: the bounds for A < 0 are on the other side. Take jnp.minimum of the two terms for "
    "every sign of A, and leave out rows without a token",
)
