"""Empirical distribution of log s from a few rollouts, for use where the normal one is not good enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gspo_core._lib.array import is_integer, is_real, namespace, shape_of
from gspo_core._lib.checks import as_reals
from gspo_core._lib.units import mean_over_tokens
from gspo_core._lib.validation import check_layout, log_probs
from gspo_core.types import Array, Layout

from .drift import Tails


@dataclass(frozen=True, eq=False)
class Pilot:
    """Responses of a pilot: log s, length and advantage of each, [n]. NumPy, on the host; add pilots up with `+`.

    As a law of log s it is empirical. Responses with A > 0 and with A < 0 are kept apart, since training moves them apart:
    of each sign, a share stays at log s = 0 exactly (the first mini-batch of a rollout), and the others are
    log s = mean + z/√|y| with a z drawn from the pilot's own: for other lengths the mean stays and the spread scales, as
    in `Drift`, while the shape is the measured one.

    `log_s`, `lengths` and `advantage` may be lists; of `advantage` only the sign matters, and 0 counts as a response that
    is never clipped. Empty responses are left out.

    Raises TypeError for what holds no real numbers, ValueError if the three differ in shape, for anything that is not finite
    and for a negative length.

    >>> pilot = Pilot([0.01, -0.02, 0.0], [4, 4, 6], [1.0, -1.0, 0.0]) + Pilot([0.03], [5], [0.5])
    >>> len(pilot.log_s)
    4
    """

    log_s: Any
    """[n] nats per token."""
    lengths: Any
    """[n] tokens, at least 1."""
    advantage: Any
    """[n]."""

    def __post_init__(self) -> None:
        for name in ("log_s", "lengths", "advantage"):
            values = as_reals(name, getattr(self, name))
            object.__setattr__(self, name, values)
            if values.shape != (self.log_s.size,):
                raise ValueError(f"{name}: expected shape {[self.log_s.size]}, got {list(values.shape)}")
            if not np.isfinite(values).all():
                raise ValueError(f"{name}: expected finite numbers")
        if (self.lengths < 0).any():
            raise ValueError(f"lengths: expected numbers of at least 0, got {self.lengths.min():g}")
        there = self.lengths > 0
        for name in ("log_s", "lengths", "advantage"):
            object.__setattr__(self, name, getattr(self, name)[there])

    @staticmethod
    def measure(logp: Array, old_logp: Array, advantage: Array, layout: Layout) -> Pilot:
        """From the log-probs of a batch (token arrays, as `policy_loss` takes them) and its advantages [N]."""
        check_layout(layout)
        xp = namespace(logp=logp, old_logp=old_logp, advantage=advantage, layout=layout.valid)
        if not (is_real(xp, advantage) or is_integer(xp, advantage)):
            raise TypeError(f"advantage: expected real numbers, got dtype {advantage.dtype}")
        if shape_of(advantage) != (layout.num_sequences,):
            raise ValueError(
                f"advantage: expected shape [{layout.num_sequences}], one per sequence, got {list(shape_of(advantage))}"
            )
        new, old = log_probs(xp, layout, False, logp=logp, old_logp=old_logp)
        lengths = layout.lengths()
        advantage = xp.where(lengths > 0, xp.astype(advantage, new.dtype), 0.0)
        return Pilot(mean_over_tokens(new - old, layout), lengths, advantage)

    def __add__(self, other: Pilot) -> Pilot:
        """Both pilots' responses."""
        if not isinstance(other, Pilot):
            raise TypeError(f"other: expected a Pilot, got {type(other).__name__}")
        names = ("log_s", "lengths", "advantage")
        return Pilot(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))

    def tails(self, low: float, high: float, lengths: np.ndarray) -> Tails:
        """P(log s > high) where A > 0 and P(log s < low) where A < 0, for responses of `lengths` [n]; bounds in nats."""
        return Tails(self._beyond(1.0, high, lengths), self._beyond(-1.0, low, lengths))

    def _beyond(self, sign: float, bound: float, lengths: np.ndarray) -> np.ndarray:
        own = self.advantage * sign > 0
        moved = own & (self.log_s != 0)
        if not moved.any():
            return np.zeros(lengths.shape)
        mean = float((self.log_s[moved] * self.lengths[moved]).sum() / self.lengths[moved].sum())
        z = np.sort(sign * (self.log_s[moved] - mean) * np.sqrt(self.lengths[moved]))
        distance = sign * (bound - mean) * np.sqrt(lengths)
        beyond = 1.0 - np.searchsorted(z, distance, side="right") / z.size
        return np.asarray(beyond * moved.sum() / own.sum())
