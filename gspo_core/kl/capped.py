"""A bound on the log ratio to the reference, for any estimator."""

from __future__ import annotations

from dataclasses import dataclass

from gspo_core._lib.checks import check_choice, check_positive, hold_numbers
from gspo_core.types import Array, Namespace

from .estimators import Divergence, KLEstimator


@dataclass(frozen=True)
class Capped:
    """Another estimator that sees log π no further than `cap` from log π_ref: one stray token cannot decide the penalty.

    value = k(x′, d′) and slope = ∂k/∂log π where |x| ≤ cap, else 0, with x′ = min(max(x, −cap), cap) and d′ = d + x − x′ (the
    same shift of log π; only TokenKL and SequenceKL look at d). The slope is the derivative of the value everywhere but at the
    two corners, and both are finite for x = ±∞. x is the sum over the response for SequenceKL and for
    SequenceK2. `KLPenalty.capped` says where |x| > cap. Raises TypeError for an estimator that is none or has a cap already
    and for a cap of another kind, ValueError unless it is positive and finite.

    Source: verl (core_algos.py) clamps the log ratio of its k3 at 20.

    >>> import numpy as np
    >>> from gspo_core.kl import K2
    >>> value, slope = Capped(K2(), 2.0)(np, np.array([0.5, 9.0, -np.inf]), np.zeros(3))
    >>> value.tolist(), slope.tolist()
    ([0.125, 2.0, 2.0], [-0.5, 0.0, 0.0])
    """

    estimator: KLEstimator
    """K1(), K2(), SequenceK2(), KAbs(), K3(), TokenKL() or SequenceKL()."""
    cap: float
    """Largest |log π_ref − log π|; nats."""

    def __post_init__(self) -> None:
        check_estimator(self.estimator)
        if isinstance(self.estimator, Capped):
            raise TypeError(f"estimator: expected one without a cap, got {self.estimator}")
        hold_numbers(self, "cap")
        check_positive("cap", self.cap)

    @property
    def per_token(self) -> bool:
        """As the estimator's."""
        return self.estimator.per_token

    @property
    def off_policy(self) -> bool:
        """As the estimator's."""
        return self.estimator.off_policy

    def acts(self, xp: Namespace, x: Array) -> Array:
        """Units, boolean: |x| > cap."""
        return xp.abs(x) > self.cap

    def __call__(self, xp: Namespace, x: Array, d: Array) -> Divergence:
        """(value, slope) of the estimator, at log π within the cap."""
        beyond = self.acts(xp, x)
        near = xp.where(x > self.cap, self.cap, xp.where(x < -self.cap, -self.cap, x))
        value, slope = self.estimator(xp, near, xp.where(beyond, d + (x - near), d))
        return Divergence(value, xp.where(beyond, 0.0, slope))


def check_estimator(estimator: KLEstimator) -> None:
    """TypeError unless it is a value that can be called as an estimator."""
    check_choice("estimator", estimator, ("off_policy", "per_token", "__call__"), "an estimator such as TokenKL() or K3()")
