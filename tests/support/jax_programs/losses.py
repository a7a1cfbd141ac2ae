"""What the tests of gspo_jax share: one batch of one shape on JAX, in every layout, in float32 or float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gspo_jax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.cases import Batch
from support.family import MEMBERS, Member
from support.inputs.one_shape import EXAMPLES, N

from gspo_core import Loss, Packed, Padded, PerToken, sharded
from gspo_core.layouts import Layout, Restricted

BATCH = EXAMPLES["holes"].clean()
LAYOUTS = ["padded", "packed", "one shard"]
SEQUENCE = next(member for member in MEMBERS if member.name == "GSPO")
EVERY_LAYOUT = [*LAYOUTS, "restricted"]
by_layout = pytest.mark.parametrize("layout", LAYOUTS)


class Inputs(NamedTuple):
    """Everything of a loss but the objective; a pytree."""

    logp: Any
    old_logp: Any
    advantage: Any
    layout: Any


def inputs(name: str = "padded", dtype: Any = np.float64, batch: Batch = BATCH, token_advantage: bool = False) -> Inputs:
    """The batch in a layout; token arrays are the padded ones, flattened where the layout is flat."""

    def array(x: np.ndarray) -> Any:
        return jnp.asarray((x.reshape(-1) if name == "packed" and x.ndim == 2 else x).astype(dtype))

    mask = jnp.asarray(batch.mask)
    ids = jnp.asarray(np.where(batch.mask, np.arange(len(batch.mask))[:, None], -1).reshape(-1).astype(np.int32))
    layouts: dict[str, Callable[[], Layout]] = {
        "padded": lambda: Padded(mask),
        "packed": lambda: Packed(ids, N),
        "one shard": lambda: sharded(Padded(mask), itself),
        "restricted": lambda: Restricted(Padded(mask | True), mask),
    }
    advantage = PerToken(array(batch.token_advantage)) if token_advantage else array(batch.advantage)
    return Inputs(array(batch.logp), array(batch.old_logp), advantage, layouts[name]())


def itself(x: Any) -> Any:
    """The sum over one shard."""
    return x


def loss_at(member: Member, x: Inputs, logp: Any = None, **options: Any) -> Loss:
    """gspo_jax's loss, at other log-probs if given."""
    return gspo_jax.policy_loss(member.objective, x.logp if logp is None else logp, *x[1:], **options)


def value_of(member: Member, x: Inputs, **options: Any) -> Callable[[Any], Any]:
    """logp ↦ value."""
    return lambda logp: loss_at(member, x, logp, **options).value


def weight_direction(x: Inputs) -> Any:
    """A tangent without symmetry."""
    return jnp.linspace(-1.0, 1.3, x.logp.size, dtype=x.logp.dtype).reshape(x.logp.shape)


def traces(f: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    """f under jit, and a list that grows by one with each compilation."""
    seen: list[int] = []

    def counted(*args: Any) -> Any:
        seen.append(1)
        return f(*args)

    return jax.jit(counted), seen
