"""FIPO: a token weighs more if the tokens after it have become more probable, by a discounted sum of their log ratios."""

from __future__ import annotations

import math

from gspo_core._lib.array import namespace, without_nan_warning
from gspo_core._lib.checks import as_number
from gspo_core._lib.running import sums_from_here, whole_sequences
from gspo_core._lib.validation import check_layout, log_probs
from gspo_core.objectives import PerToken, Token
from gspo_core.objectives.loss import unit_advantage
from gspo_core.types import Array, Layout, Namespace

CAUTIOUS = (0.8, 1.0)
"""Bounds of the factor of a bad token beyond the safety threshold, as in ms-swift."""


def future_kl_advantages(
    logp: Array,
    old_logp: Array,
    advantage: Array | PerToken,
    layout: Layout,
    *,
    half_life: float = 32.0,
    low: float = 1.0,
    high: float = 1.2,
    safety: float = 4.0,
) -> PerToken:
    """A_it f_it with f_it = clip(e^F_it, low, high), F_it = Σ_{k ≥ t} 2^(−(k − t)/half_life) d_ik, d = log π − log π_old.

    The sum runs over the response's own tokens from t on, in the order of their slots; k − t counts these, so that padding,
    holes and the layout change nothing. Where A < 0 and π/π_old > safety, f is bounded by 0.8 and 1 instead. f is held
    constant. FIPO is DAPO with these advantages: `policy_loss(DAPO, logp, old_logp, future_kl_advantages(...), layout)`.

    Args:
        logp, old_logp: token arrays of log-probs; nats.
        advantage: [N], or one per token, as for `policy_loss`.
        layout: where the policy's tokens stand, whole responses. Masked slots are inert.
        half_life: tokens after which a log ratio counts half; positive.
        low, high: bounds of the factor, 0 < low ≤ 1 ≤ high.
        safety: ratio, positive; infinite for none.

    Returns: `PerToken`, in float32, or float64 if a log-prob is.

    Raises: TypeError for a wrong kind or dtype, and for a layout whose responses are spread over ranks; ValueError for a wrong
    shape or number, each naming the argument.

    Source: FIPO, arXiv 2603.19835, as in ms-swift (loss_type "fipo"), whose k − t also counts the slots of tool output.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> old, layout = np.zeros((1, 3)), Padded(np.array([[True, True, True]]))
    >>> new = np.array([[0.0, 0.0, np.log(1.1)]])
    >>> future_kl_advantages(new, old, np.array([1.0]), layout, half_life=1.0).values.round(4).tolist()
    [[1.0241, 1.0488, 1.1]]
    """
    check_layout(layout)
    whole_sequences(layout)
    values = advantage.values if isinstance(advantage, PerToken) else advantage
    xp = namespace(logp=logp, old_logp=old_logp, advantage=values, layout=layout.valid)
    logp, old_logp = log_probs(xp, layout, False, logp=logp, old_logp=old_logp)
    half_life, low, high, safety = _checked(half_life, low, high, safety)
    units = unit_advantage(Token(), advantage, layout, logp)
    with without_nan_warning(xp):
        d = logp - old_logp
        future = sums_from_here(xp, d, layout, 2.0 ** (-1.0 / half_life))
    cautious = (units < 0) & (d > math.log(safety))
    factor = xp.where(cautious, _between(xp, future, *CAUTIOUS), _between(xp, future, low, high))
    return PerToken(units * factor)


def _checked(half_life: float, low: float, high: float, safety: float) -> tuple[float, ...]:
    half_life, low, high, safety = (
        as_number(name, x) for name, x in (("half_life", half_life), ("low", low), ("high", high), ("safety", safety))
    )
    if not 0.0 < half_life < math.inf:
        raise ValueError(f"half_life: expected a positive finite number of tokens, got {half_life}")
    if not (0.0 < low <= 1.0 <= high < math.inf):
        raise ValueError(f"low, high: expected factors with 0 < low ≤ 1 ≤ high, got {low} and {high}")
    if not safety > 0.0:
        raise ValueError(f"safety: expected a positive ratio, got {safety}")
    return half_life, low, high, safety


def _between(xp: Namespace, log_factor: Array, low: float, high: float) -> Array:
    """e^x, bounded in log space."""
    bounded = xp.where(log_factor > math.log(high), math.log(high), log_factor)
    return xp.exp(xp.where(bounded < math.log(low), math.log(low), bounded))
