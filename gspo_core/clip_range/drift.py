"""Movement of the policy since it sampled, and the normal distribution of log s that follows from it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gspo_core._lib.array import count_true, namespace
from gspo_core._lib.checks import as_number
from gspo_core._lib.validation import check_layout, log_probs
from gspo_core.kl import K3
from gspo_core.types import Array, Layout


class Tails(NamedTuple):
    """Probabilities of being clipped, for responses of given lengths: [n] each, NumPy.

    >>> Drift.of(2e-4).tails(-3e-4, 4e-4, np.array([100, 10_000])).low.round(3).tolist()
    [0.48, 0.309]
    """

    high: np.ndarray
    """P(log s > bound) of a response with A > 0."""
    low: np.ndarray
    """P(log s < bound) of a response with A < 0."""


class Drift(NamedTuple):
    """log s ~ Normal(mean, variance · design_effect / |y|): [] arrays or Python numbers; nats.

    The sum of a response's token log ratios has a mean in proportion to |y| and, if the tokens move independently, a
    variance in proportion to |y|; s is its |y|-th root. So the spread of log s falls as 1/√|y| and its mean does not fall.

    >>> Drift.of(2e-4, design_effect=3.0)
    Drift(kappa=0.0002, mean=-0.0002, variance=0.0004, design_effect=3.0)
    """

    kappa: Array
    """κ: KL(π_old‖π) per token, the mean of e^d − 1 − d over tokens; nats."""
    mean: Array
    """Mean of d over tokens: −κ for samples that the policy was not trained on."""
    variance: Array
    """Variance of d over tokens: 2κ to second order."""
    design_effect: Array
    """D: how far the tokens of a response move together; 1 if independently, |y| if all alike."""

    @staticmethod
    def of(kappa: float, design_effect: float = 1.0) -> Drift:
        """The law for small steps of a policy that was not trained on these samples: Normal(−κ, 2κD/|y|).

        Raises ValueError unless κ ≥ 0 and D ≥ 0, both finite.

        >>> Drift.of(2e-4).mean
        -0.0002
        """
        kappa, design_effect = as_number("kappa", kappa), as_number("design_effect", design_effect)
        for name, value in (("kappa", kappa), ("design_effect", design_effect)):
            if not 0.0 <= value < math.inf:
                raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")
        return Drift(kappa, -kappa, 2.0 * kappa, design_effect)

    def tails(self, low: float, high: float, lengths: np.ndarray) -> Tails:
        """P(log s > high) and P(log s < low) for responses of `lengths` [n]; the bounds in nats."""
        mean = float(self.mean)
        sizes, where = np.unique(lengths, return_inverse=True)
        spread = np.sqrt(float(self.variance) * float(self.design_effect) / sizes)
        return Tails(_beyond(high - mean, spread)[where], _beyond(mean - low, spread)[where])


class BySign(NamedTuple):
    """One law for responses with A > 0 and one for those with A < 0: training moves them apart.

    >>> good, bad = Drift(1e-4, 1e-4, 2e-4, 1.0), Drift(1e-4, -1e-4, 2e-4, 1.0)
    >>> low, high = BySign(good, bad).tails(-3e-4, 4e-4, np.array([1000]))[::-1]
    >>> low.round(3).tolist(), high.round(3).tolist()
    ([0.327], [0.251])
    """

    good: Any
    """The law where A > 0: a `Drift`."""
    bad: Any
    """The law where A < 0."""

    def tails(self, low: float, high: float, lengths: np.ndarray) -> Tails:
        """The upper tail of `good` and the lower tail of `bad`."""
        return Tails(self.good.tails(low, high, lengths).high, self.bad.tails(low, high, lengths).low)


def _beyond(distance: float, spread: np.ndarray) -> np.ndarray:
    """P(x > distance) of x ~ Normal(0, spread²), elementwise; a spread of 0 is a step."""
    z = np.divide(distance, spread, out=np.full(spread.shape, math.copysign(math.inf, distance)), where=spread > 0)
    z = np.where((spread == 0) & (distance == 0), math.inf, z)  # on the bound is not beyond it
    return np.array([0.5 * math.erfc(x / math.sqrt(2.0)) for x in z])


def estimate_drift(logp: Array, old_logp: Array, layout: Layout, *, allow_low_precision: bool = False) -> Drift:
    """κ, mean and variance of the token log ratios d = logp − old_logp, and their design effect, from a batch.

    With S_i = Σ_t d_it, T = Σ_i |y_i| and the token mean m = Σ_i S_i / T,

        κ = (1/T) Σ (e^d − 1 − d)      variance = Σ (d − m)² / (T − 1)
        D = [Σ_i (S_i − |y_i| m)² / (T − Σ_i |y_i|²/T)] / variance

    Numerator and variance are both centred by m and free of the bias that costs, for lengths as ragged as they come: D is
    1 on average over independent tokens. It is 1 where it cannot be known (fewer than two responses, no variance).
    For the responses of one sign of A, give a layout restricted to them (`Restricted`).

    Args:
        logp: token array, log-probs of the sampled tokens under the current policy; nats.
        old_logp: token array, under the policy that the ratio is taken to.
        layout: where the policy's tokens stand; masked slots are inert.
        allow_low_precision: accept log-probs below float32 and upcast them.

    Returns: `Drift` of [] arrays, also under a tracer. All 0 (and D = 1) for a batch without tokens.

    Raises: TypeError for a wrong kind or dtype, ValueError for a wrong shape, each naming the argument.

    Source: κ is k3 of J. Schulman, 2020; the design effect is that of cluster samples (L. Kish, 1965, "Survey Sampling").

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> rng = np.random.default_rng(0)
    >>> shared, own = rng.normal(size=(500, 1)), rng.normal(size=(500, 8))  # half of the variance is the response's
    >>> drift = estimate_drift(0.01 * (shared + own), np.zeros((500, 8)), Padded(np.full((500, 8), True)))
    >>> round(float(drift.design_effect), 1)  # 1 + (8 - 1)/2
    4.5
    """
    check_layout(layout)
    xp = namespace(logp=logp, old_logp=old_logp, layout=layout.valid)
    new, old = log_probs(xp, layout, allow_low_precision, logp=logp, old_logp=old_logp)
    return drift_of(new - old, layout)


def drift_of(d: Array, layout: Layout) -> Drift:
    """`estimate_drift` of the token array d, 0 in masked slots."""
    xp = layout.xp
    lengths = xp.astype(layout.lengths(), d.dtype)
    total = xp.sum(lengths)
    tokens = xp.where(total > 0, total, 1.0)
    mean = xp.sum(layout.sum(d)) / tokens
    centred = layout.select(d - mean)
    freedom = total - 1.0
    variance = xp.sum(layout.sum(centred * centred)) / xp.where(freedom > 0, freedom, 1.0)
    sums = layout.sum(centred)
    between = total - xp.sum(lengths * lengths) / tokens  # 0 for one response, at least 1 for two
    known = (count_true(xp, lengths > 0) > 1) & (variance > 0)
    together = xp.sum(sums * sums) / xp.where(known, between, 1.0)
    design_effect = xp.where(known, together / xp.where(known, variance, 1.0), 1.0)
    kappa = xp.sum(layout.sum(K3()(xp, d, d).value)) / tokens
    return Drift(kappa, mean, variance, design_effect)
