"""The closed-form weight of the core's KL penalty, attached to JAX's autodiff by a custom_jvp rule, as in `policy`."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gspo_core import kl_penalty as core_kl_penalty
from gspo_core.backend import as_positive, check_layout, kl_weight_as_function
from gspo_core.kl import KLEstimator, KLPenalty
from gspo_core.layouts import Layout
from gspo_core.types import Array, Reduction

from .door import check_arrays, check_flags


def kl_penalty(
    estimator: KLEstimator,
    logp: Array,
    ref_logp: Array,
    layout: Layout,
    *,
    reduction: Reduction,
    old_logp: Array | None = None,
    denominator: float | Array | None = None,
    allow_low_precision: bool = False,
) -> KLPenalty:
    """`gspo_core.kl_penalty`, with a `value` that is differentiable with respect to `logp`.

    Formula, arguments, shapes and errors are those of the core. Gradients flow to `logp` only, whatever the other log-probs
    were computed from: on policy pass `old_logp=logp`. The derivative of `value` is `logp_grad`, at any size of the log
    ratios. Exact under the transformations of `policy_loss`; estimator and reduction are static under jit.

    >>> import jax, jax.numpy as jnp
    >>> from gspo_core import Padded, SequenceMean, TokenKL
    >>> logp, layout = jnp.array([[-1.0, -2.0]]), Padded(jnp.array([[True, True]]))
    >>> value = lambda x: kl_penalty(TokenKL(), x, logp - 0.5, layout, reduction=SequenceMean(), old_logp=x).value
    >>> jax.grad(value)(logp).tolist()
    [[0.25, 0.25]]
    """
    check_layout(layout)
    check_arrays(logp=logp, ref_logp=ref_logp, old_logp=old_logp)
    check_flags(allow_low_precision=allow_low_precision)
    # Under jit a number is traced, and could not be checked inside.
    denominator = None if denominator is None else as_positive("denominator", denominator)
    constants = _Constants(*(lax.stop_gradient(x) for x in (ref_logp, old_logp, layout, denominator)))
    value, logp_grad, capped = _penalty((estimator, reduction, allow_low_precision), logp, constants)
    return KLPenalty(value, logp_grad, None if capped is None else capped > 0)


class _Constants(NamedTuple):
    ref_logp: Any
    old_logp: Any
    layout: Any
    denominator: Any


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _penalty(static: tuple[KLEstimator, Reduction, bool], logp: Array, constants: _Constants) -> tuple[Array, ...]:
    """([] value, its weight ∂value/∂logp, and 1 where a cap acts or None without one)."""
    estimator, reduction, low = static
    ref_logp, old_logp, layout, denominator = constants
    options: dict[str, Any] = {"reduction": reduction, "old_logp": old_logp, "denominator": denominator}
    found = core_kl_penalty(estimator, logp, ref_logp, layout, **options, allow_low_precision=low)
    # Flags as numbers: see `policy`.
    return found.value, found.logp_grad, None if found.capped is None else found.capped.astype(found.value.dtype)


@_penalty.defjvp
def _penalty_jvp(
    static: tuple[KLEstimator, Reduction, bool], primals: tuple[Array, _Constants], tangents: tuple[Array, Any]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    estimator, reduction, _ = static
    logp, (ref_logp, old_logp, layout, denominator) = primals
    parts = _penalty(static, logp, primals[1])
    options: dict[str, Any] = {"reduction": reduction, "old_logp": old_logp, "denominator": denominator}
    # Computed from the inputs again, so that JAX can differentiate the weight itself.
    moving = kl_weight_as_function(estimator, logp, ref_logp, layout, **options)
    # Per sequence first, as the value: on a sharded layout the tangent, too, is whole on every rank.
    tangent = jnp.sum(layout.sum(moving * tangents[0].astype(moving.dtype)))
    return parts, (tangent.astype(parts[0].dtype), *jax.tree.map(jnp.zeros_like, parts[1:]))
