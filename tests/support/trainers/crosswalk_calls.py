"""The own loss of a trainer on a batch of the crosswalk: its value, and its gradient with respect to the log-probs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from support.trainers.crosswalk import Batch

Theirs = Callable[[Batch], tuple[Any, Any]]


def in_torch(loss: Any) -> Theirs:
    """Of a PyTorch loss (logp, old_logp, advantage, mask) ↦ scalar, in float64."""
    import torch  # noqa: PLC0415 - neither framework is imported for the other

    def theirs(batch: Batch) -> tuple[Any, Any]:
        logp = torch.tensor(batch.logp, requires_grad=True)
        found = loss(logp, *(torch.tensor(x) for x in (batch.old_logp, batch.A, batch.mask)))
        value = found[0] if isinstance(found, tuple) else found  # verl's are followed by metrics
        value.backward()
        return value.detach().numpy(), logp.grad.numpy()

    return theirs


def in_jax(loss: Any) -> Theirs:
    """Of a JAX loss, likewise, in float32."""
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    def theirs(batch: Batch) -> tuple[Any, Any]:
        logp, old, advantage = (jnp.asarray(x, dtype="float32") for x in (batch.logp, batch.old_logp, batch.A))
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as a trainer's user has it
            value, grad = jax.value_and_grad(loss)(logp, old, advantage, jnp.asarray(batch.mask))
        return np.asarray(value), np.asarray(grad)

    return theirs


def nested(settings: dict[str, Any]) -> dict[str, Any]:
    """{"a.b": 1, "c": 2} as {"a": {"b": 1}, "c": 2}."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        group, _, option = name.rpartition(".")
        (found.setdefault(group, {}) if group else found)[option] = value
    return found
