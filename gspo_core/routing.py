"""Router shift: how far a mixture of experts has moved its routing since the samples were drawn (RSPO)."""

from __future__ import annotations

import math

from ._lib.array import at_least_float32, detached, is_real, namespace, shape_of
from ._lib.checks import as_number
from ._lib.validation import check_layout
from .types import Array, Layout, Namespace

__all__ = ["router_shift"]


def router_shift(old_router_logp: Array, router_logp: Array, layout: Layout, *, floor: float) -> Array:
    """log γ_it, with γ_it = max(exp(−(1/L) Σ_l (1/K) Σ_k |Δ log r_itlk|), floor): 0 where routing stands still, else below.

    r_itlk is the router's score of the k-th of the K experts that layer l of the *old* policy activated for the token, and
    Δ its change. γ rescales the importance ratio before clipping and averaging, w̃_it = γ_it w_it, held constant. A
    constant factor on every ratio is a constant shift of the old log-probs, so no objective has to know about it:

        policy_loss(GMPO, logp, old_logp - router_shift(...), advantage, layout)      # RSPO
        policy_loss(GSPO, logp, old_logp - router_shift(...), advantage, layout)      # the same for any other objective

    Args:
        old_router_logp: token array with two more axes, [..., L, K]: log scores under the old policy; nats.
        router_logp: the same experts' log scores under the current one. Data: the result is constant to autodiff.
        layout: where the policy's tokens stand. Masked slots are inert, and 0 in the result.
        floor: γ_min, smallest factor, in (0, 1). Give your own; the notes at hand do not name the paper's.

    Returns: token array of at most 0, at least log(floor), in float32, or float64 if a score is; nats.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape or floor, each naming the argument.

    Source: RSPO, arXiv 2510.23027. That ratios are rescaled before clipping and aggregation, with a stop-gradient and a
    floor, is in the abstract of v2; the formula of γ is from secondary notes and not checked against the paper.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> old, new = np.zeros((1, 2, 1, 2)), np.array([[[[0.25, -0.75]], [[9.0, 9.0]]]])  # one layer, two experts
    >>> router_shift(old, new, Padded(np.array([[True, True]])), floor=0.5).round(3).tolist()
    [[-0.5, -0.693]]
    """
    check_layout(layout)
    xp = namespace(old_router_logp=old_router_logp, router_logp=router_logp, layout=layout.valid)
    old = _scores(xp, "old_router_logp", old_router_logp, layout)
    new = _scores(xp, "router_logp", router_logp, layout)
    if shape_of(new) != shape_of(old):
        raise ValueError(f"router_logp: expected {list(shape_of(old))} as old_router_logp, got {list(shape_of(new))}")
    floor = as_number("floor", floor)
    if not 0.0 < floor < 1.0:
        raise ValueError(f"floor: expected a factor between 0 and 1, got {floor}")
    there = layout.valid[..., None, None]
    moved = xp.abs(xp.where(there, new, 0.0) - xp.where(there, old, 0.0))
    log_gamma = 0.0 - xp.mean(moved, axis=(-2, -1))
    return layout.select(xp.where(log_gamma < math.log(floor), math.log(floor), log_gamma))


def _scores(xp: Namespace, name: str, x: Array, layout: Layout) -> Array:
    if not is_real(xp, x):
        raise TypeError(f"{name}: expected real floating-point log scores, got dtype {x.dtype}")
    shape = shape_of(x)
    if len(shape) != len(layout.shape) + 2 or shape[:-2] != layout.shape or 0 in shape[-2:]:
        raise ValueError(
            f"{name}: expected the layout's shape and [layers, experts per token], {[*layout.shape, 'L', 'K']} with L and K at "
            f"least 1, got {list(shape)}"
        )
    return at_least_float32(xp, detached(x))
