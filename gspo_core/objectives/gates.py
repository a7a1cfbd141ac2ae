"""Gates: change log ratios and advantages, or close tokens, before the ratio is formed.

The fourth part of an objective, for trust regions that need more than one unit's log ratio: a bound per token inside a
sequence ratio (GMPO), a bound that grows with the length (FSPO), a sequence's statistic that switches off token ratios
(DeepSeek-V3.2). A gate does not depend on the ratio or surrogate that comes after it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gspo_core._lib.checks import hold_numbers
from gspo_core._lib.units import mean_over_tokens
from gspo_core.types import Array, Gated, Layout


def _width(gate: TokenClip | Band | OffPolicyMask, name: str) -> None:
    hold_numbers(gate, name)
    value = getattr(gate, name)
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name}: expected a finite width in nats of at least 0, got {value}")


@dataclass(frozen=True)
class TokenClip:
    """Each token's own bound, before any mean: d̃_it = min(d_it, high) for A > 0, max(d_it, −low) for A < 0.

    A token beyond its bound enters the ratio with the bound and has no gradient; on the bound it is open.

    `low` and `high` in nats, finite and at least 0, else ValueError. Source: GMPO, arXiv 2507.20673, which writes the band
    as (e^−0.4, e^0.4).

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> layout = Padded(np.array([[True, True]]))
    >>> TokenClip(0.4, 0.4)(np.array([[0.1, 0.9]]), np.array([1.0]), layout, per_token=False).d.tolist()
    [[0.1, 0.4]]
    """

    low: float
    """Width below 0, nats."""
    high: float
    """Width above 0, nats."""

    def __post_init__(self) -> None:
        _width(self, "low")
        _width(self, "high")

    def __call__(self, d: Array, advantage: Array, layout: Layout, per_token: bool) -> Gated:
        """Set tokens beyond their bound to the bound, and close them."""
        xp = layout.xp
        at_tokens = advantage if per_token else layout.spread(advantage)
        above = (at_tokens > 0) & (d > self.high)
        below = (at_tokens < 0) & (d < -self.low)
        seen = xp.where(below, -self.low, xp.where(above, self.high, d))
        return Gated(seen, advantage, layout.valid & ~(above | below))


@dataclass(frozen=True)
class Band:
    """A bound on the whole response: |S_i| ≤ width · |y_i|^length_power, with S_i = Σ_t d_it = log(π(y_i)/π_old(y_i)).

    One-sided like Clip: A > 0 is bounded above, A < 0 below. Beyond, every token enters the ratio with ±1/|y_i| of the
    bound and has no gradient; on the bound it is open. With length_power 1 this is GSPO's gate (a bound on the mean), with
    0 a bound on the product; ½ clips all lengths equally often if the noise of the tokens is independent.

    `width` in nats, finite and at least 0, `length_power` in [0, 1], else ValueError. Source: FSPO, arXiv 2509.09177 (√L).

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> layout = Padded(np.array([[True, True, True, True]]))
    >>> Band(0.2, 0.5)(np.full((1, 4), 0.3), np.array([1.0]), layout, per_token=False).d.tolist()
    [[0.1, 0.1, 0.1, 0.1]]
    """

    width: float
    """Half the band of a response of one token, nats."""
    length_power: float = 0.5
    """Exponent of |y_i| in the bound."""

    def __post_init__(self) -> None:
        _width(self, "width")
        hold_numbers(self, "length_power")
        if not 0.0 <= self.length_power <= 1.0:
            raise ValueError(f"length_power: expected a number in [0, 1], got {self.length_power}")

    def __call__(self, d: Array, advantage: Array, layout: Layout, per_token: bool) -> Gated:
        """Set responses beyond their bound to the bound, and close them."""
        xp = layout.xp
        at_tokens = advantage if per_token else layout.spread(advantage)
        lengths = layout.safe_lengths(d)
        # A bound on S is a bound on the mean: b/|y|. Powers of |y| in [−1, 0] are finite and never 0.
        bound = layout.spread(self.width * lengths ** (self.length_power - 1.0))
        mean = layout.spread(layout.sum(d) / lengths)
        above = (at_tokens > 0) & (mean > bound)
        below = (at_tokens < 0) & (mean < 0.0 - bound)
        seen = xp.where(below, 0.0 - bound, xp.where(above, bound, d))
        return Gated(seen, advantage, layout.valid & ~(above | below))


@dataclass(frozen=True)
class OffPolicyMask:
    """Responses with A < 0 and −log s_i > delta have no value and no gradient: the policy has already moved away from them.

    −log s_i = (1/|y_i|) Σ_t (log π_old − log π) estimates KL(π_old ‖ π) per token. The response keeps its place in the
    denominator. With delta = −log(1 − ε_low) these are the responses that GSPO's own clip stops on the negative side.

    `delta` in nats, finite and at least 0, else ValueError. Source: DeepSeek-V3.2, arXiv 2512.02556, which gives no number.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> layout = Padded(np.array([[True], [True]]))
    >>> OffPolicyMask(0.5)(np.array([[-0.4], [-0.6]]), np.array([-1.0, -1.0]), layout, per_token=False).advantage.tolist()
    [-1.0, 0.0]
    """

    delta: float
    """Largest tolerated mean of log π_old − log π, nats per token."""

    def __post_init__(self) -> None:
        _width(self, "delta")

    def __call__(self, d: Array, advantage: Array, layout: Layout, per_token: bool) -> Gated:
        """Set the advantage of such responses to 0."""
        mean = mean_over_tokens(d, layout)
        stale = (advantage < 0) & ((layout.spread(mean) if per_token else mean) < -self.delta)
        return Gated(d, layout.xp.where(stale, 0.0, advantage), layout.valid)
