"""The contract of a backend: everything of the core that a backend uses beside the public names.

A backend attaches the closed-form weight of a loss to the automatic differentiation of one framework. Its `policy_loss` has
the arguments, results and errors of `gspo_core.policy_loss`, and the derivative of its `value` with respect to `logp` is
`Loss.logp_grad`. It needs three things for that:

1. The value and the weight: `gspo_core.policy_loss`, whose operations need not be recorded for differentiation.
2. The weight as a function, `weight_as_function`, if the framework can differentiate a gradient again.
3. A way for the framework to see the arrays inside a layout and inside `PerToken`: both are frozen dataclasses whose fields
   are arrays, layouts, or plain Python values.

A backend with a loss on hidden states returns a `LinearLoss`. It may leave out what `active_tokens` leaves out, a layout is
sharded if `layout.local is not layout`, and arguments are checked with the functions of the core, so that errors read alike.
docs/new-backend.md builds a backend of 50 lines on this module.
"""

from __future__ import annotations

from collections.abc import Callable

from ._lib.checks import check_number, check_positive
from ._lib.validation import check_layout
from .objectives import LinearLoss, Objective
from .objectives.loss import gated, token_log_ratio, unit_advantage, unit_loss
from .types import Array, Layout, PerToken

__all__ = [
    "LinearLoss",
    "active_tokens",
    "check_layout",
    "check_number",
    "check_positive",
    "weight_as_function",
]


def weight_as_function(
    objective: Objective,
    logp: Array,
    old_logp: Array | None,
    advantage: Array | PerToken,
    layout: Layout,
    *,
    weight: Array,
    denominator: Array,
    hold_constant: Callable[[Array], Array],
) -> Array:
    """`Loss.logp_grad`, computed by operations whose derivative is the second derivative of the paper's formula.

    `policy_loss` computes the log ratio with `Ratio.log_ratio`, but the loss moves as `Ratio.push_forward` says. The two
    differ where the paper has stop-gradients: for GSPO-token, log s_it = sg[log s_i] + logp_it − sg[logp_it]. Here
    the log ratio has the value of the one and the derivative of the other.

    Args:
        objective, logp, old_logp, advantage, layout: as for `policy_loss`, and checked there. old_logp is None on policy:
            the old log-probs are then the current ones, held constant, so that the ratio is 1 and its derivative is not 0.
        weight, denominator: `Loss.logp_grad` and `Loss.denominator` at these log-probs. If the surrogate is not `exact`, its
            weight is a constant of the loss, and `weight` is returned as it is.
        hold_constant: the framework's stop-gradient: returns its argument with a derivative of 0.

    Returns: token array, equal to `weight`.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded, policy_loss
    >>> logp, layout = np.array([[-1.0, -2.0]]), Padded(np.array([[True, True]]))
    >>> batch = (logp, logp, np.array([1.0]), layout)
    >>> loss = policy_loss(GSPO, *batch)
    >>> now = {"weight": loss.logp_grad, "denominator": loss.denominator}
    >>> weight_as_function(GSPO, *batch, **now, hold_constant=np.copy).tolist(), loss.logp_grad.tolist()
    ([[-0.5, -0.5]], [[-0.5, -0.5]])
    """
    if not getattr(objective.surrogate, "exact", True):
        return weight
    xp, ratio = layout.xp, objective.ratio
    logp = xp.astype(logp, denominator.dtype, copy=False)
    old = hold_constant(logp) if old_logp is None else xp.astype(old_logp, denominator.dtype, copy=False)
    d = token_log_ratio(logp, old, layout)
    seen = gated(objective, d, unit_advantage(ratio, advantage, layout, denominator), layout)
    moves = ratio.push_forward(seen.d, layout)
    log_ratio = hold_constant(ratio.log_ratio(seen.d, layout)) + (moves - hold_constant(moves))
    again = ratio.pull_back(unit_loss(objective, log_ratio, seen.advantage, layout, denominator).slope, layout)
    return again if objective.gate is None else xp.where(seen.open, again, 0.0)


def active_tokens(objective: Objective, advantage: Array | PerToken, layout: Layout) -> Array:
    """Token array, boolean: the tokens of sequences that have an advantage other than 0; the loss needs no others.

    Where advantages are per token and the layout is sharded this exchanges N numbers, so that every rank decides alike.

    >>> import numpy as np
    >>> from gspo_core import GSPO, Padded
    >>> active_tokens(GSPO, np.array([1.0, 0.0]), Padded(np.array([[True, False], [True, True]]))).tolist()
    [[True, False], [False, False]]
    """
    xp = layout.xp
    values = advantage.values if isinstance(advantage, PerToken) else advantage
    if isinstance(advantage, PerToken) or (values.ndim > 1 and objective.ratio.per_token):
        moved = layout.sum(layout.select(xp.astype(values != 0, xp.float32))) > 0
    else:
        moved = values != 0 if values.ndim == 1 else xp.any(values != 0, axis=1)
    return layout.valid & (layout.spread(xp.astype(moved, xp.float32)) > 0)
