"""Tunix's two contracts: 0.1.7 takes a micro-batch's loss, its repository what an optimizer step adds up over micro-batches."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gspo_core import merge, summary
from gspo_core.metrics import Metrics
from gspo_core.types import Array


def deferred() -> bool:
    """Whether losses return `LossOutput`: a sum and its denominator, divided once per optimizer step."""
    return hasattr(importlib.import_module("tunix.sft.utils"), "LossOutput")


def quotient(total: Array, count: Array) -> Any:
    """total / count as a contract takes it.

    Args:
        total: [] sum over a micro-batch.
        count: [] what it is to be divided by; 0 if the sum is 0.

    Returns: [] the quotient, or the WeightedMetric of both.
    """
    count = count.astype(total.dtype)
    if deferred():
        return importlib.import_module("tunix.sft.utils").WeightedMetric(total, count)
    return total / jnp.maximum(count, 1)


def output(loss: Any, aux: dict[str, Any]) -> Any:
    """What a policy loss returns: (loss, aux), or their LossOutput."""
    return importlib.import_module("tunix.sft.utils").LossOutput(loss, aux) if deferred() else (loss, aux)


def scores(model: Any, example: Any, pad_id: int, eos_id: int, temperature: float, chunk_size: int) -> tuple[Array, Array]:
    """Tunix's log-probs of a batch's tokens, and the entropy of the distributions that they are from, without a gradient."""
    common, core, nnx = map(importlib.import_module, ("tunix.rl.common", "tunix.rl.algo_core", "flax.nnx"))
    own = {"return_entropy": True, "chunk_size": chunk_size} if deferred() else {"return_logits": True}
    logp, more = common.compute_per_token_logps(
        *nnx.split(model),
        prompt_tokens=example.prompt_ids,
        completion_tokens=example.completion_ids,
        pad_id=pad_id,
        eos_id=eos_id,
        stop_gradient=False,
        temperature=temperature,
        segment_ids=getattr(example, "segment_ids", None),
        segment_positions=getattr(example, "segment_positions", None),
        **own,
    )
    more = lax.stop_gradient(more)
    return logp, more if deferred() else core.compute_entropy_from_logits(more)


@partial(jax.tree_util.register_dataclass, data_fields=["metrics"], meta_fields=["name"])
@dataclass(frozen=True)
class Reading:
    """A number of `summary` whose mean over micro-batches, by np.mean, is that of all their responses; NaN if there is none.

    >>> import numpy as np
    >>> from gspo_core import group_metrics
    >>> parts = [group_metrics(np.array(x), np.arange(len(x)) // 2) for x in ([1.0, -1.0, 0.0, 0.0, 1.0, -1.0], [0.0, 0.0])]
    >>> np.mean([Reading(part, "constant_groups") for part in parts])  # of 1/3 and 1
    0.5
    """

    metrics: Metrics
    name: str

    def __add__(self, other: Reading) -> Reading:
        """Merged; NumPy then divides by the number of parts, which is no part of the reading."""
        return Reading(merge(self.metrics, other.metrics), self.name)

    def __truediv__(self, parts: int) -> float:
        """The number."""
        return summary(self.metrics).get(self.name, math.nan)
