"""A KL penalty: the estimates of all units as one value, and its gradient in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from gspo_core._lib.array import check_array, namespace
from gspo_core._lib.checks import as_coefficient, check_choice
from gspo_core._lib.units import row_weighted
from gspo_core._lib.validation import check_layout, divisor, log_probs
from gspo_core.types import Array, Layout, Reduction

from .capped import Capped, check_estimator
from .estimators import KLEstimator


class KLPenalty(NamedTuple):
    """A KL term as a value and a weight, to be minimised: loss.value + β · kl.value, loss.logp_grad + β · kl.logp_grad.

    >>> import numpy as np
    >>> from gspo_core import Padded, SequenceMean
    >>> from gspo_core.kl import K2
    >>> one = np.array([[-1.0]])
    >>> kl = kl_penalty(K2(), one, one - 0.5, Padded(one < 0), reduction=SequenceMean())
    >>> float(kl.value), kl.logp_grad.tolist()
    (0.125, [[0.5]])
    """

    value: Array
    """[] Σ units weight · estimate; nats."""
    logp_grad: Array
    """Token array: ∂value/∂logp in closed form, exactly 0 in masked slots."""
    capped: Array | None = None
    """Units, boolean: where the log ratio is beyond the cap and the slope 0; None unless the estimator is `Capped`."""


@dataclass(frozen=True, eq=False)
class KLTerm:
    """β · KL to a reference policy: the argument `kl` of a backend's `linear_policy_loss`, which adds `kl_penalty` to its loss.

    A coefficient may change from step to step, be 0 (the term is then measured and adds nothing) or negative. Raises TypeError
    for an estimator, log-probs or a coefficient of another kind, ValueError for a coefficient that is not finite.

    >>> import numpy as np
    >>> from gspo_core.kl import K3
    >>> KLTerm(K3(), np.zeros((2, 3)), coefficient=0.01).coefficient
    0.01
    """

    estimator: KLEstimator
    """K1(), K2(), SequenceK2(), KAbs(), K3(), TokenKL() or SequenceKL(), or one of them with a cap, Capped(K3(), 10.0)."""
    ref_logp: Array
    """Token array: log-probs under the reference policy; nats."""
    coefficient: float | Array
    """β, a number or a [] array; held constant."""

    def __post_init__(self) -> None:
        check_estimator(self.estimator)
        check_array("ref_logp", self.ref_logp)
        object.__setattr__(self, "coefficient", as_coefficient("coefficient", self.coefficient))


def check_term(kl: KLTerm | None) -> None:
    """Refuses what is no KL term.

    Args:
        kl: the argument `kl` of a backend's `linear_policy_loss`.

    Returns: nothing.

    Raises: TypeError.

    >>> check_term(None)
    """
    if kl is not None and not isinstance(kl, KLTerm):
        raise TypeError(f"kl: expected a KLTerm(estimator, ref_logp, coefficient) or None, got {type(kl).__name__}")


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
    """Σ units weight · k(log π_ref − log π), and its gradient with respect to `logp` in closed form.

    Args:
        estimator: TokenKL() or SequenceKL() for the gradient of KL(π‖π_ref); K1(), K2(), SequenceK2(), KAbs(), K3();
            Capped(any of them, cap).
        logp: token array, log-probs of the sampled tokens under the current policy; nats.
        ref_logp: token array, the same under the reference policy.
        layout: where the policy's tokens stand. Masked slots of every input are inert.
        reduction: SequenceMean() or TokenMean(), as the objective's; units of `SequenceKL` and `SequenceK2` are sequences.
        old_logp: token array, log-probs under the policy that sampled; only for TokenKL and SequenceKL. On policy, pass
            the numbers of `logp` themselves.
        denominator: what to divide by, a positive number or a [] array. None means this batch's own count.
        allow_low_precision: accept log-probs below float32 and upcast them.

    Returns: `KLPenalty`, in float32, or float64 if a log-prob is. Its arrays are constants to every automatic differentiation:
    use `logp_grad`, or the `kl_penalty` of `gspo_torch` and `gspo_jax`, whose value is differentiable.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape or an argument that would have no effect.

    Sources: at the estimators.

    >>> import numpy as np
    >>> from gspo_core import Padded, TokenMean
    >>> from gspo_core.kl import K2
    >>> logp, ref = np.array([[-1.0, -2.0]]), np.array([[-1.5, -2.0]])
    >>> kl = kl_penalty(K2(), logp, ref, Padded(np.array([[True, True]])), reduction=TokenMean())
    >>> float(kl.value), kl.logp_grad.tolist()
    (0.0625, [[0.25, 0.0]])
    """
    _check_choices(estimator, reduction, old_logp)
    check_layout(layout)
    xp = namespace(logp=logp, ref_logp=ref_logp, old_logp=logp if old_logp is None else old_logp, layout=layout.valid)
    old_logp = logp if old_logp is None else old_logp
    named = {"logp": logp, "ref_logp": ref_logp, "old_logp": old_logp}
    logp, ref_logp, old_logp = log_probs(xp, layout, allow_low_precision, **named)
    return penalty_of(estimator, logp, ref_logp, old_logp, layout, reduction, denominator)


def penalty_of(
    estimator: KLEstimator,
    logp: Array,
    ref_logp: Array,
    old_logp: Array,
    layout: Layout,
    reduction: Reduction,
    denominator: float | Array | None,
) -> KLPenalty:
    """`kl_penalty` of token arrays of one dtype, 0 in masked slots."""
    xp = layout.xp
    if estimator.off_policy:
        # Of a token with π = 0 the ratio is 0, and x + d is what is left, log π_ref − log π_old: finite numbers say both.
        gone = 2.0 * math.log(xp.finfo(logp.dtype).max)
        logp = xp.where(logp == -math.inf, old_logp - gone, logp)
    x = ref_logp - logp
    d = logp - old_logp if estimator.off_policy else xp.zeros_like(x)
    if not estimator.per_token:
        x, d = layout.sum(x), layout.sum(d)
    shares = reduction.weights(layout, estimator.per_token, divisor(xp, reduction, denominator, layout, logp))
    weights = row_weighted(shares, layout, estimator.per_token)
    estimate, slope = estimator(xp, x, d)
    capped = estimator.acts(xp, x) if isinstance(estimator, Capped) else None
    terms, grads = weights * estimate, weights * slope
    if estimator.per_token:
        # Per sequence first: then the value is whole on every rank of a sharded layout.
        return KLPenalty(xp.sum(layout.sum(terms)), layout.select(grads), capped)
    return KLPenalty(xp.sum(terms), layout.spread(grads), capped)


def _check_choices(estimator: KLEstimator, reduction: Reduction, old_logp: Array | None) -> None:
    check_estimator(estimator)
    check_choice("reduction", reduction, ("weights", "sums_tokens"), "a reduction such as SequenceMean()")
    weighs = "tokens" if reduction.sums_tokens else "turns" if getattr(reduction, "shares_turns", False) else None
    if weighs and not estimator.per_token:
        raise TypeError(
            f"reduction: {reduction} weighs {weighs}, but {estimator} has one estimate per sequence. Use SequenceMean(), or "
            "TokenKL() as the estimator"
        )
    if estimator.off_policy and old_logp is None:
        raise ValueError(
            f"old_logp: {estimator} corrects for the policy that sampled; pass its log-probs (on policy: those of logp)"
        )
    if not estimator.off_policy and old_logp is not None:
        raise ValueError(f"old_logp: {estimator} does not use it; leave it out, or use TokenKL()")
