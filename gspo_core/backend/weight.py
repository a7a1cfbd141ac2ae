"""The closed-form weight of a loss as a function of the log-probs, for second derivatives."""

from __future__ import annotations

from collections.abc import Callable

from gspo_core.objectives import Objective
from gspo_core.objectives.gating import gated, passed, token_log_ratio
from gspo_core.objectives.loss import unit_advantage, unit_loss
from gspo_core.types import Array, Layout, PerToken


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

    Raises: nothing that `policy_loss` would not have raised for the same arguments.

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
    per_unit = unit_advantage(ratio, advantage, layout, denominator)
    seen = gated(objective.gate, ratio, d, per_unit, layout, logp, old)
    moves = ratio.push_forward(seen.d, layout)
    moves = xp.where(xp.isinf(moves), 0.0, moves)  # a ratio of 0 or ∞ does not move, and ∞ − ∞ would be NaN
    log_ratio = hold_constant(ratio.log_ratio(seen.d, layout)) + (moves - hold_constant(moves))
    again = ratio.pull_back(unit_loss(objective, log_ratio, seen.advantage, layout, denominator).slope, layout)
    return again if objective.gate is None else passed(seen, again, layout)
