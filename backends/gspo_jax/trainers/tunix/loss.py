"""A policy loss as Tunix calls it: log-probs of its model, our loss on padded or packed rows, its KL term, and its log."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gspo_core import Objective, Packed, Padded, PerToken
from gspo_core.objectives import PRESETS
from gspo_core.types import Array
from gspo_jax.kl import kl_penalty
from gspo_jax.policy import policy_loss

from .contract import output, quotient, scores
from .log import Batch, logged
from .options import check_options, kl_estimator


def register(name: str, objective: Objective) -> str:
    """Makes `GRPOConfig(policy_loss_fn=name)` the loss of an objective.

    Args:
        name: what the configuration calls it; one that is taken is replaced, of which Tunix warns.
        objective: a preset of `gspo_core.objectives`, or your own.

    Returns: the name.

    Raises: TypeError if it is no objective.
    """
    if not isinstance(objective, Objective):
        raise TypeError(f"objective: expected an Objective such as GSPO, got {type(objective).__name__}")
    registry = importlib.import_module("tunix.rl.function_registry")
    registry.register_policy_loss_fn(name)(partial(tunix_loss, objective))
    return name


def register_presets() -> None:
    """Every preset, GSPO as "gspo_core_gspo"."""
    for name, objective in PRESETS.items():
        register(f"gspo_core_{name.lower()}", objective)


def tunix_loss(
    objective: Objective,
    model: Any,
    train_example: Any,
    algo_config: Any,
    pad_id: int,
    eos_id: int,
    compute_logps_chunk_size: int = 0,
) -> Any:
    """A policy loss as Tunix calls it, after the objective.

    Args:
        objective: whose loss it is.
        model, train_example, algo_config, pad_id, eos_id, compute_logps_chunk_size: Tunix's own.

    Returns: the loss of a micro-batch with its KL term, and what Tunix logs: (loss, aux), or a LossOutput whose sum and
        denominator Tunix adds up over the micro-batches of an optimizer step.

    Raises: ValueError for an option that contradicts the objective, by its name.
    """
    example = train_example
    check_options(objective, algo_config, example)
    logp, entropy = scores(model, example, pad_id, eos_id, algo_config.temperature, compute_logps_chunk_size)
    layout = layout_of(example)
    rows = (
        logp,
        entropy,
        example.old_per_token_logps,
        example.ref_per_token_logps,
        getattr(example, "sampler_is_weights", None),
    )
    logp, entropy, old, reference, weights = (None if x is None else x.reshape(layout.shape) for x in rows)
    advantage = advantage_of(objective, example.advantages, weights, layout)
    loss = policy_loss(objective, logp, old, advantage, layout, on_policy=old is None)
    value, kl, count = loss.value, jnp.zeros(()), objective.count(layout)
    if reference is not None:
        kl = kl_penalty(kl_estimator(algo_config), logp, reference, layout, reduction=objective.reduction).value
        value = value + (algo_config.beta or 0.0) * kl
    batch = Batch(objective, logp, old, reference, weights, advantage, layout, entropy)
    return output(quotient(value * loss.denominator, count), logged(batch, loss, kl, algo_config))


def layout_of(example: Any) -> Padded | Packed:
    """Where the policy's tokens stand.

    Args:
        example: a TrainExample. If it is packed, `segment_ids` number a row's responses, with their prompts, from 1.

    Returns: rows as they are, or all packs as one row of segments, as many as there are slots: shapes are static.
    """
    mask, segments = example.completion_mask > 0, getattr(example, "segment_ids", None)
    if segments is None:
        return Padded(mask)
    rows, width = mask.shape
    ids = segments - 1 + width * jnp.arange(rows, dtype=segments.dtype)[:, None]
    return Packed(jnp.where(mask & (segments > 0), ids, -1).reshape(-1), rows * width)


def advantage_of(objective: Objective, given: Array, weights: Array | None, layout: Padded | Packed) -> Array | PerToken:
    """Advantages of responses or of tokens, times a sampler's weights of tokens.

    Args:
        objective: decides which of the two a pack has, where Tunix writes an advantage to every token.
        given: [N], or rows of tokens.
        weights: token array, or None.
        layout: of `layout_of`.

    Returns: [N], or PerToken. A packed response whose tokens have different advantages has NaN under a ratio of responses.
    """
    if isinstance(layout, Packed) and not objective.ratio.per_token:
        ids, num = jnp.where(layout.valid, layout.segment_ids, layout.num_sequences), layout.num_sequences + 1
        high, low = (extreme(given.reshape(-1), ids, num)[:-1] for extreme in (jax.ops.segment_max, jax.ops.segment_min))
        return jnp.where(high == low, high, jnp.nan)
    if given.ndim == 1 and weights is None:
        return given
    tokens = layout.spread(given) if given.ndim == 1 else given.reshape(layout.shape)
    return PerToken(tokens if weights is None else tokens * weights)
