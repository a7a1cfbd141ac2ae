"""Token selection: which tokens of a batch learn, by entropy, by covariance, by how far their log-probs have moved.

Each function returns a boolean token array. What is done with it is a choice of its own, and trainers differ:

    kept_advantages(advantage, kept, layout)    the others have no advantage, and stay in the denominator
    Restricted(layout, kept)                    the others are gone, from lengths and denominators, too

A choice is made among the tokens of the call: in parts (micro-batches, ranks) each part chooses among its own.
"""

from __future__ import annotations

import math

from gspo_core._lib.array import (
    arange_like,
    at_least_float32,
    count_true,
    detached,
    is_real,
    namespace,
    shape_of,
    without_nan_warning,
)
from gspo_core._lib.checks import as_number
from gspo_core._lib.units import at_least_one
from gspo_core._lib.validation import check_layout, log_probs
from gspo_core.objectives import PerToken, Token
from gspo_core.objectives.loss import unit_advantage
from gspo_core.types import Array, Layout, Namespace

FARTHEST = 1e6
"""|log π − log π_old| from which on a token counts as infinitely far; nats."""


def kept_advantages(advantage: Array | PerToken, kept: Array, layout: Layout) -> PerToken:
    """The advantage at every token that is kept, 0 at the others: a mask as an argument of `policy_loss`.

    Tokens that are not kept have no gradient and no value, and count in the denominator. `batch_metrics` of that loss, given
    the advantages as they were before, counts them as clipped.

    Args:
        advantage: [N], or one per token, as for `policy_loss`.
        kept: token array, boolean; in masked slots it may be anything.
        layout: where the policy's tokens stand.

    Returns: `PerToken`, in float32, or float64 if the advantages are.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> layout = Padded(np.array([[True, True, False]]))
    >>> kept_advantages(np.array([2.0]), np.array([[True, False, True]]), layout).values.tolist()
    [[2.0, 0.0, 0.0]]
    """
    check_layout(layout)
    values = advantage.values if isinstance(advantage, PerToken) else advantage
    xp = namespace(advantage=values, kept=kept, layout=layout.valid)
    if not xp.isdtype(kept.dtype, "bool"):
        raise TypeError(f"kept: expected a boolean array, got dtype {kept.dtype}; write kept > 0")
    if shape_of(kept) != layout.shape:
        raise ValueError(f"kept: expected the layout's shape {list(layout.shape)}, got {list(shape_of(kept))}")
    like = at_least_float32(xp, values) if is_real(xp, values) else xp.astype(layout.valid, xp.float32)
    units = unit_advantage(Token(), advantage, layout, like)
    return PerToken(xp.where(kept, units, 0.0))


def top_share(values: Array, layout: Layout, share: float) -> Array:
    """The tokens with the largest values: ⌊share · n⌋ of the n tokens, and at least one.

    Of entropies, a share of 0.2 is the 80/20 rule; of `token_covariance`, 2e-4 is KL-Cov's choice. Of equal values the first
    are taken. A value that is NaN is smaller than any other.

    Args:
        values: token array of real numbers; masked slots are inert.
        layout: where the policy's tokens stand.
        share: in (0, 1].

    Returns: token array, boolean, False in masked slots.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape or share, each naming the argument.

    Sources: 80/20, arXiv 2506.01939 (TRL takes a quantile: all tokens at or above it, at most one more than here but for equal
    values); KL-Cov, arXiv 2505.22617, as in verl.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> layout = Padded(np.array([[True, True, True], [True, False, False]]))
    >>> top_share(np.array([[0.5, 2.0, 0.1], [1.0, 9.0, 9.0]]), layout, 0.5).tolist()
    [[False, True, False], [True, False, False]]
    """
    check_layout(layout)
    xp = namespace(values=values, layout=layout.valid)
    values = _token_values(xp, values, layout)
    share = as_number("share", share)
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share: expected a share in (0, 1], got {share}")
    rank = _rank(xp, 0.0 - xp.where(xp.isnan(values), -math.inf, values), layout)
    chosen = xp.floor(share * xp.astype(count_true(xp, layout.valid), values.dtype))
    return layout.valid & (xp.astype(rank, values.dtype) < xp.where(chosen < 1, 1.0, chosen))


def within_second_moment(logp: Array, old_logp: Array, layout: Layout, threshold: float) -> Array:
    """The most tokens whose mean of (log π − log π_old)² is below a threshold: the furthest go first; at least one stays.

    Args:
        logp, old_logp: token arrays of log-probs; nats. M2PO takes those at the beginning of the update and the sampler's.
        layout: where the policy's tokens stand. Masked slots are inert.
        threshold: of the mean, nats²; positive and finite.

    Returns: token array, boolean, False in masked slots. A token whose log-prob is NaN goes first.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape or threshold, each naming the argument.

    Source: M2PO, arXiv 2510.01161, as in AReaL (`m2_threshold`).

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> old, layout = np.zeros((1, 4)), Padded(np.array([[True, True, True, False]]))
    >>> within_second_moment(np.array([[0.1, -2.0, 0.3, 9.0]]), old, layout, 0.06).tolist()
    [[True, False, True, False]]
    """
    check_layout(layout)
    xp = namespace(logp=logp, old_logp=old_logp, layout=layout.valid)
    logp, old_logp = log_probs(xp, layout, False, logp=logp, old_logp=old_logp)
    threshold = as_number("threshold", threshold)
    if not 0.0 < threshold < math.inf:
        raise ValueError(f"threshold: expected a positive finite number, got {threshold}")
    with without_nan_warning(xp):
        d = logp - old_logp
    near = layout.valid & (xp.abs(d) < FARTHEST)
    d = xp.where(near, d, 0.0)
    squares = xp.where(near, d * d, math.inf)
    rank = xp.reshape(_rank(xp, squares, layout), (-1,))
    ascending = xp.take(xp.reshape(squares, (-1,)), xp.argsort(rank), axis=0)
    means = xp.cumulative_sum(ascending) / (arange_like(xp, shape_of(rank)[0], squares) + 1.0)
    count = xp.sum(xp.astype(means < threshold, xp.int32))  # means of an ascending row ascend
    return layout.valid & xp.reshape(rank < xp.where(count < 1, 1, count), layout.shape)


def token_covariance(logp: Array, advantage: Array | PerToken, layout: Layout) -> Array:
    """(A_it − Ā)(log π_it − mean log π), means over the tokens of the call: whose update costs the most entropy.

    Args:
        logp: token array of log-probs under the current policy; nats.
        advantage: [N], or one per token, as for `policy_loss`.
        layout: where the policy's tokens stand. Masked slots are inert, and 0 in the result.

    Returns: token array.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    Source: Clip-Cov and KL-Cov, arXiv 2505.22617, as in verl.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> token_covariance(np.array([[-1.0, -3.0]]), np.array([[1.0, 0.0]]), Padded(np.array([[True, True]]))).tolist()
    [[0.5, 0.5]]
    """
    check_layout(layout)
    values = advantage.values if isinstance(advantage, PerToken) else advantage
    xp = namespace(logp=logp, advantage=values, layout=layout.valid)
    (logp,) = log_probs(xp, layout, False, logp=logp)
    units = unit_advantage(Token(), advantage, layout, logp)
    count = at_least_one(xp, count_true(xp, layout.valid), logp)
    with without_nan_warning(xp):
        return layout.select((units - xp.sum(units) / count) * (logp - xp.sum(logp) / count))


def _token_values(xp: Namespace, values: Array, layout: Layout) -> Array:
    """Real numbers of the layout's shape as data, 0 in masked slots."""
    if not is_real(xp, values):
        raise TypeError(f"values: expected real floating-point numbers, got dtype {values.dtype}")
    if shape_of(values) != layout.shape:
        raise ValueError(f"values: expected the layout's shape {list(layout.shape)}, got {list(shape_of(values))}")
    return layout.select(at_least_float32(xp, detached(values)))


def _rank(xp: Namespace, x: Array, layout: Layout) -> Array:
    """Token array, integer: how many tokens have a smaller x, equal ones in their order; masked slots come last."""
    flat, valid = xp.reshape(x, (-1,)), xp.reshape(layout.valid, (-1,))
    order = xp.argsort(flat, stable=True)
    masked_last = xp.argsort(xp.astype(~xp.take(valid, order, axis=0), xp.int8), stable=True)
    order = xp.take(order, masked_last, axis=0)
    return xp.reshape(xp.argsort(order, stable=True), layout.shape)
