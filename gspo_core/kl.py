"""KL to a reference policy: estimators as a value and its slope, and a penalty that is a term of its own.

With x = log π_ref − log π (per token, or summed over a sequence) and the policy ratio w = π/π_old:

                 value              ∂value/∂log π    on average over samples of π, the gradient is that of
    K1           −x                 1                nothing (0)
    K2           x²/2               −x               KL(π‖π_ref) of the next token
    K3           eˣ − 1 − x         1 − eˣ           KL(π_ref‖π) of the next token
    TokenKL      w (eˣ − 1 − x)     −w x             KL(π‖π_ref) of the next token, also for samples of π_old
    SequenceKL   the same for whole responses        KL(π‖π_ref) of the response, also for samples of π_old

The term knows neither the objective nor its ratio: clipping, advantages and the level of the importance ratio do not touch
it. GSPO has none; to have one, minimise loss.value + β · kl.value, whose weight is loss.logp_grad + β · kl.logp_grad.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from ._lib.array import EXP_CAP, exp_finite, namespace
from ._lib.checks import check_choice, check_positive
from ._lib.validation import check_layout, divisor, log_probs
from .types import Array, Layout, Namespace, Reduction

__all__ = ["K1", "K2", "K3", "Divergence", "KLEstimator", "KLPenalty", "KLTerm", "SequenceKL", "TokenKL", "kl_penalty"]


class Divergence(NamedTuple):
    """Result of an estimator, elementwise.

    >>> import numpy as np
    >>> K3()(np, np.array([0.0]), np.zeros(1))
    Divergence(value=array([0.]), slope=array([0.]))
    """

    value: Array
    """Estimate of the divergence; nats."""
    slope: Array
    """∂value/∂log π."""


class KLEstimator(Protocol):
    """An estimate of the divergence from the reference, for one unit: a value and its slope.

    >>> import numpy as np
    >>> estimator: KLEstimator = K2()
    >>> value, slope = estimator(np, np.array([1.0]), np.zeros(1))
    >>> value.tolist(), slope.tolist()
    ([0.5], [-1.0])
    """

    @property
    def per_token(self) -> bool:
        """True if a unit is a token, False if it is a sequence."""

    @property
    def off_policy(self) -> bool:
        """True if it corrects for samples of an old policy, and needs its log-probs."""

    def __call__(self, xp: Namespace, x: Array, d: Array) -> Divergence:
        """(value, slope) from x = log π_ref − log π and d = log π − log π_old (0 if not off_policy), elementwise."""


@dataclass(frozen=True)
class K1:
    """−x: unbiased in value, of either sign; its gradient is 0 on average. To be looked at, not to be minimised.

    Source: J. Schulman, 2020, "Approximating KL Divergence" (joschu.net/blog/kl-approx.html).

    >>> import numpy as np
    >>> K1()(np, np.array([0.5, -0.5]), np.zeros(2)).value.tolist()
    [-0.5, 0.5]
    """

    per_token: ClassVar[bool] = True
    off_policy: ClassVar[bool] = False

    def __call__(self, xp: Namespace, x: Array, d: Array) -> Divergence:
        """(−x, 1)."""
        return Divergence(0.0 - x, xp.ones_like(x))


@dataclass(frozen=True)
class K2:
    """x²/2: biased in value; on policy its gradient is that of KL(π‖π_ref) of the next token. Source: as K1.

    >>> import numpy as np
    >>> K2()(np, np.array([0.5, -0.5]), np.zeros(2)).value.tolist()
    [0.125, 0.125]
    """

    per_token: ClassVar[bool] = True
    off_policy: ClassVar[bool] = False

    def __call__(self, xp: Namespace, x: Array, d: Array) -> Divergence:
        """(x²/2, −x)."""
        return Divergence(0.5 * x * x, 0.0 - x)


@dataclass(frozen=True)
class K3:
    """eˣ − 1 − x: unbiased in value on policy, never negative; its gradient is that of the other KL(π_ref‖π).

    Source: as K1; the penalty of GRPO, arXiv 2402.03300, eq. 4.

    >>> import numpy as np
    >>> K3()(np, np.array([0.5, -0.5]), np.zeros(2)).value.round(4).tolist()
    [0.1487, 0.1065]
    """

    per_token: ClassVar[bool] = True
    off_policy: ClassVar[bool] = False

    def __call__(self, xp: Namespace, x: Array, d: Array) -> Divergence:
        """(eˣ − 1 − x, 1 − eˣ), by expm1 where x ≤ 1; linear in x beyond 50."""
        near = x <= 1.0
        small = xp.expm1(xp.where(near, x, 0.0))
        large, steep = exp_finite(xp, xp.where(near, 0.0, x))
        return Divergence(xp.where(near, small - x, large - 1.0 - x), xp.where(near, 0.0 - small, 1.0 - steep))


def _ratio_times_k3(xp: Namespace, x: Array, d: Array) -> Divergence:
    """(w (eˣ − 1 − x), −w x) with w = e^d, the ratio being differentiated as well: w k3 + w (1 − eˣ) = −w x.

    Where x > 1 the value is π_ref/π_old − w (1 + x), whose first term does not move with π. Beyond 50 the exponentials
    are continued linearly, value and slope alike.
    """
    ratio, ratio_slope = exp_finite(xp, d)
    reference, _ = exp_finite(xp, d + x)
    near = (d <= EXP_CAP) & (d + x <= EXP_CAP) & (x <= 1.0)
    k3 = xp.expm1(xp.where(near, x, 0.0)) - x
    value = xp.where(near, ratio * k3, reference - ratio * (1.0 + x))
    return Divergence(value, xp.where(d <= EXP_CAP, 0.0 - ratio * x, ratio - ratio_slope * (1.0 + x)))


@dataclass(frozen=True)
class TokenKL:
    """w (eˣ − 1 − x) per token, differentiated through w = π/π_old too: slope −w x, of the true KL of the next token.

    Unbiased at every prefix, in value and gradient, for samples of π_old. That a token also decides which prefixes come
    after it is not in it; see `SequenceKL`. The ratio is always the token's own, whatever the objective's.
    Source: DeepSeek-V3.2, arXiv 2512.02556, eq. 7.

    >>> import numpy as np
    >>> TokenKL()(np, np.array([0.5]), np.log(np.array([2.0]))).slope.round(12).tolist()
    [-1.0]
    """

    per_token: ClassVar[bool] = True
    off_policy: ClassVar[bool] = True

    def __call__(self, xp: Namespace, x: Array, d: Array) -> Divergence:
        """(w k3, −w x)."""
        return _ratio_times_k3(xp, x, d)


@dataclass(frozen=True)
class SequenceKL:
    """ρ (e^X − 1 − X) per sequence, X = Σ_t x_t, ρ = Π_t w_t: the same formula with a response as the unit.

    Its expectation over samples of π_old is KL(π‖π_ref) of whole responses, and that of its slope −ρ X on every token is
    the gradient ∇KL(π‖π_ref), exactly. The price is variance: ρ is the true sequence ratio, not its |y|-th root.

    >>> import numpy as np
    >>> from gspo_core import Padded, SequenceMean
    >>> ref, logp = np.array([[-1.0, -2.0]]), np.array([[-1.25, -2.25]])
    >>> kl = kl_penalty(SequenceKL(), logp, ref, Padded(ref < 0), reduction=SequenceMean(), old_logp=logp)
    >>> kl.logp_grad.tolist()  # −X on every token, X = 0.5
    [[-0.5, -0.5]]
    """

    per_token: ClassVar[bool] = False
    off_policy: ClassVar[bool] = True

    def __call__(self, xp: Namespace, x: Array, d: Array) -> Divergence:
        """(ρ k3, −ρ X)."""
        return _ratio_times_k3(xp, x, d)


class KLPenalty(NamedTuple):
    """A KL term as a value and a weight, to be minimised: loss.value + β · kl.value, loss.logp_grad + β · kl.logp_grad.

    >>> import numpy as np
    >>> from gspo_core import Padded, SequenceMean
    >>> one = np.array([[-1.0]])
    >>> kl = kl_penalty(K2(), one, one - 0.5, Padded(one < 0), reduction=SequenceMean())
    >>> float(kl.value), kl.logp_grad.tolist()
    (0.125, [[0.5]])
    """

    value: Array
    """[] Σ units weight · estimate; nats."""
    logp_grad: Array
    """Token array: ∂value/∂logp in closed form, exactly 0 in masked slots."""


@dataclass(frozen=True, eq=False)
class KLTerm:
    """β · KL to a reference policy: the argument `kl` of a backend's `linear_policy_loss`, which adds `kl_penalty` to its loss.

    Raises TypeError for an estimator of another kind, ValueError for a coefficient that is not a positive finite number.

    >>> import numpy as np
    >>> KLTerm(K3(), np.zeros((2, 3)), coefficient=0.01).coefficient
    0.01
    """

    estimator: KLEstimator
    """K1(), K2(), K3(), TokenKL() or SequenceKL()."""
    ref_logp: Array
    """Token array: log-probs under the reference policy; nats."""
    coefficient: float
    """β, a Python number."""

    def __post_init__(self) -> None:
        _check_estimator(self.estimator)
        check_positive("coefficient", self.coefficient)


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
        estimator: TokenKL() or SequenceKL() for the gradient of KL(π‖π_ref); K1(), K2(), K3().
        logp: token array, log-probs of the sampled tokens under the current policy; nats.
        ref_logp: token array, the same under the reference policy.
        layout: where the policy's tokens stand. Masked slots of every input are inert.
        reduction: SequenceMean() or TokenMean(), as the objective's; units of `SequenceKL` are sequences.
        old_logp: token array, log-probs under the policy that sampled; only for TokenKL and SequenceKL. On policy, pass
            the numbers of `logp` themselves.
        denominator: what to divide by, a positive number or a [] array. None means this batch's own count.
        allow_low_precision: accept log-probs below float32 and upcast them.

    Returns: `KLPenalty`, in float32, or float64 if a log-prob is. An autodiff of `value` with respect to `logp` agrees
    with `logp_grad` if the other log-probs are constants: on policy pass `logp.detach()`, or it would see no ratio.

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
    xp = namespace(logp=logp, ref_logp=ref_logp, old_logp=logp if old_logp is None else old_logp, mask=layout.valid)
    old_logp = logp if old_logp is None else old_logp
    named = {"logp": logp, "ref_logp": ref_logp, "old_logp": old_logp}
    logp, ref_logp, old_logp = log_probs(xp, layout, allow_low_precision, **named)
    x, d = ref_logp - logp, logp - old_logp
    if not estimator.per_token:
        x, d = layout.sum(x), layout.sum(d)
    weights = reduction.weights(layout, estimator.per_token, divisor(xp, reduction, denominator, layout, logp))
    estimate, slope = estimator(xp, x, d)
    terms, grads = weights * estimate, weights * slope
    if estimator.per_token:
        # Per sequence first: then the value is whole on every rank of a sharded layout.
        return KLPenalty(xp.sum(layout.sum(terms)), layout.select(grads))
    return KLPenalty(xp.sum(terms), layout.spread(grads))


def _check_estimator(estimator: KLEstimator) -> None:
    check_choice("estimator", estimator, ("off_policy", "per_token", "__call__"), "an estimator such as TokenKL() or K3()")


def _check_choices(estimator: KLEstimator, reduction: Reduction, old_logp: Array | None) -> None:
    _check_estimator(estimator)
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
