"""The core's closed-form weight, attached to JAX's autodiff by a custom_jvp rule.

The tangent of the value is ⟨weight, dlogp⟩, the weight being computed from the inputs, so that JAX can differentiate the
rule itself: reverse mode, Hessians and vmap of all of them are exact, stop-gradients of the paper included. The weight's own
derivative is that of `push_forward`, not of `log_ratio`: they differ for GSPO-token.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gspo_core import Loss, Objective, PerToken
from gspo_core import policy_loss as core_policy_loss
from gspo_core.backend import as_positive, check_layout, weight_as_function
from gspo_core.layouts import Layout
from gspo_core.types import Array

from .door import check_arrays, check_flags


def policy_loss(
    objective: Objective,
    logp: Array,
    old_logp: Array | None,
    advantage: Array | PerToken,
    layout: Layout,
    *,
    denominator: float | Array | None = None,
    on_policy: bool = False,
    allow_low_precision: bool = False,
) -> Loss:
    """`gspo_core.policy_loss`, with a `value` that is differentiable with respect to `logp`.

    Formula, arguments, shapes and errors are those of the core. Gradients flow to `logp` only: old log-probs, advantages
    and denominators are constants of the loss. Exact under grad, jvp, hessian, vmap, jit, scan, remat and shard_map. The
    objective is static under jit (it is hashable); layouts and `PerToken` are pytrees.

    Context parallelism: inside shard_map, `sharded(layout, lambda x: lax.psum(x, "context"))`. The value is whole on every
    rank of that axis, the gradient the rank's own part, taken inside or outside; add values up over the data axis with psum,
    and pass the whole batch's count as `denominator`. This is shard_map as it comes. With check_vma=False JAX transposes a
    psum to a psum: a gradient taken outside is the same, one taken inside is too large by the size of the context axis (and
    by that of the vocabulary's, if log-probs come from a `VocabularyAxis`), and not added up over ranks that share a part.

    >>> import jax, jax.numpy as jnp
    >>> from gspo_core import GSPO, Padded
    >>> old, mask = jnp.array([[-1.0, -2.0], [-1.0, -3.0]]), jnp.array([[True, True], [True, False]])
    >>> value = lambda logp: policy_loss(GSPO, logp, old, jnp.array([1.0, -1.0]), Padded(mask)).value
    >>> jax.grad(value)(old).tolist()
    [[-0.25, -0.25], [0.5, 0.0]]
    """
    check_layout(layout)
    check_arrays(logp=logp, old_logp=old_logp, advantage=advantage)
    check_flags(on_policy=on_policy, allow_low_precision=allow_low_precision)
    # Under jit a number is traced, and could not be checked inside.
    denominator = None if denominator is None else as_positive("denominator", denominator)
    constants = _Constants(*(lax.stop_gradient(x) for x in (old_logp, advantage, layout, denominator)))
    static = (objective, on_policy, allow_low_precision)
    value, logp_grad, log_ratio, clipped, divisor = _loss(static, logp, constants)
    return Loss(value, logp_grad, log_ratio, clipped != 0, divisor, on_policy)


class _Constants(NamedTuple):
    old_logp: Any
    advantage: Any
    layout: Any
    denominator: Any


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _loss(static: tuple[Objective, bool, bool], logp: Array, constants: _Constants) -> tuple[Array, ...]:
    objective, on_policy, low = static
    loss = core_policy_loss(
        objective,
        logp,
        constants.old_logp,
        constants.advantage,
        constants.layout,
        denominator=constants.denominator,
        on_policy=on_policy,
        allow_low_precision=low,
    )
    # Flags as numbers: a tangent of booleans has no place on a mesh, where shard_map tracks over which axes it varies.
    return loss.value, loss.logp_grad, loss.log_ratio, loss.clipped.astype(loss.value.dtype), loss.denominator


@_loss.defjvp
def _loss_jvp(
    static: tuple[Objective, bool, bool], primals: tuple[Array, _Constants], tangents: tuple[Array, Any]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    objective = static[0]
    logp, constants = primals
    parts = _loss(static, logp, constants)
    value, weight, _, _, divisor = parts
    known = {"weight": weight, "denominator": divisor, "hold_constant": lax.stop_gradient}
    weight = weight_as_function(objective, logp, *constants[:3], **known)
    # Per sequence first, as the value: on a sharded layout the tangent, too, is whole on every rank.
    tangent = jnp.sum(constants.layout.sum(weight * tangents[0].astype(weight.dtype)))
    others = tuple(jnp.zeros_like(x) for x in parts[1:])
    return parts, (tangent.astype(value.dtype), *others)
