"""KL estimators: the divergence from a reference policy for one unit, as a value and its slope."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from gspo_core._lib.array import EXP_CAP, exp_finite
from gspo_core.types import Array, Namespace


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
class KAbs:
    """|x|: biased in value, with a slope of one size however far the policy is, −sign(x); 0 at x = 0.

    On policy its gradient is that of Σ_v |π − π_ref| over the next token, twice the total variation.
    Source: verl's KL penalty "abs"; the penalty of KL-Cov, arXiv 2505.22617, there with the old policy as the reference.

    >>> import numpy as np
    >>> KAbs()(np, np.array([0.5, -0.5]), np.zeros(2)).slope.tolist()
    [-1.0, 1.0]
    """

    per_token: ClassVar[bool] = True
    off_policy: ClassVar[bool] = False

    def __call__(self, xp: Namespace, x: Array, d: Array) -> Divergence:
        """(|x|, −sign(x))."""
        return Divergence(xp.abs(x), 0.0 - xp.sign(x))


@dataclass(frozen=True)
class SequenceK2:
    """X²/2 per sequence, X = Σ_t x_t: the square of the whole response's log ratio, whose slope −X stands on every token.

    Against the old policy (its log-probs as `ref_logp`), τ times it is the quadratic pull of Kimi k1.5: with an advantage A
    and no ratio, every token has the weight A + τ X = A − τ Σ_t d_t. As K2's, its gradient on policy is KL(π‖π_ref)'s, here
    that of the whole response. Source: Kimi k1.5, arXiv 2501.12599, which writes τ/2 times the square; read in ROLL's notes.

    >>> import numpy as np
    >>> from gspo_core import Padded, SequenceMean, kl_penalty
    >>> logp, old = np.array([[-1.0, -2.0]]), np.array([[-1.25, -2.25]])
    >>> kl = kl_penalty(SequenceK2(), logp, old, Padded(old < 0), reduction=SequenceMean())
    >>> float(kl.value), kl.logp_grad.tolist()  # X = −0.5
    (0.125, [[0.5, 0.5]])
    """

    per_token: ClassVar[bool] = False
    off_policy: ClassVar[bool] = False

    def __call__(self, xp: Namespace, x: Array, d: Array) -> Divergence:
        """(X²/2, −X)."""
        return K2()(xp, x, d)


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
        far = large - 1.0 - xp.where(x < math.inf, x, 0.0)  # ∞ where π = 0, not ∞ − ∞
        return Divergence(xp.where(near, small - x, far), xp.where(near, 0.0 - small, 1.0 - steep))


def _ratio_times_k3(xp: Namespace, x: Array, d: Array) -> Divergence:
    """(w (eˣ − 1 − x), −w x) with w = e^d, the ratio being differentiated as well: w k3 + w (1 − eˣ) = −w x.

    Where x > 1 the value is π_ref/π_old − w (1 + x), whose first term does not move with π. Beyond 50 the exponentials
    are continued linearly, value and slope alike. Where w = 0 the value is that first term, and the slope 0.
    """
    ratio, ratio_slope = exp_finite(xp, d)
    reference, _ = exp_finite(xp, d + x)
    near = (d <= EXP_CAP) & (d + x <= EXP_CAP) & (x <= 1.0) & (ratio != 0)
    x = xp.where(ratio == 0, 0.0, x)  # 0 · ∞ would be NaN
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
    >>> from gspo_core import Padded, SequenceMean, kl_penalty
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
