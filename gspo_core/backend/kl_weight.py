"""The closed-form weight of a KL penalty as a function of the log-probs, for second derivatives."""

from __future__ import annotations

from gspo_core._lib.array import at_least_float32, detached
from gspo_core.kl.estimators import KLEstimator
from gspo_core.kl.penalty import penalty_of
from gspo_core.types import Array, Layout, Reduction


def kl_weight_as_function(
    estimator: KLEstimator,
    logp: Array,
    ref_logp: Array,
    layout: Layout,
    *,
    reduction: Reduction,
    old_logp: Array | None,
    denominator: float | Array | None,
) -> Array:
    """`KLPenalty.logp_grad`, computed by operations whose derivative with respect to `logp` is the second derivative.

    Args:
        estimator, logp, ref_logp, layout, reduction, denominator: as for `kl_penalty`, and checked there. Everything but
            `logp` is held constant.
        old_logp: as for `kl_penalty`. On policy pass the numbers of `logp`: they are held constant, so that the ratio is 1
            and its derivative is not 0.

    Returns: token array, equal to `KLPenalty.logp_grad`.

    Raises: nothing that `kl_penalty` would not have raised for the same arguments.

    >>> import numpy as np
    >>> from gspo_core import Padded, SequenceMean, TokenKL
    >>> one, layout = np.array([[-1.0, -2.0]]), Padded(np.array([[True, True]]))
    >>> rest = {"reduction": SequenceMean(), "old_logp": one, "denominator": None}
    >>> kl_weight_as_function(TokenKL(), one, one - 0.5, layout, **rest).tolist()
    [[0.25, 0.25]]
    """
    xp = layout.xp
    constants = [detached(x) for x in (ref_logp, logp if old_logp is None else old_logp)]
    arrays = [at_least_float32(xp, x) for x in (logp, *constants)]
    if any(x.dtype == xp.float64 for x in arrays):
        arrays = [xp.astype(x, xp.float64, copy=False) for x in arrays]
    logp, ref_logp, old_logp = (layout.select(x) for x in arrays)
    return penalty_of(estimator, logp, ref_logp, old_logp, layout, reduction, denominator).logp_grad
