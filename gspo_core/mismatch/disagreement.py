"""How far trainer and sampler are apart on a response, in measures in which tokens cannot cancel; for `Reject` alone.

The mean of d, which `GeometricWeight` looks at, is 0 for a response half of whose tokens are off by +1 and half by −1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from gspo_core._lib.array import exp_finite
from gspo_core._lib.checks import hold_numbers
from gspo_core._lib.units import count_tokens, mean_over_tokens
from gspo_core.kl import K3
from gspo_core.types import Array, Layout

from .bounds import log_bounds


@dataclass(frozen=True)
class MeanAbsolute:
    """w_i = (1/|y_i|) Σ_t e^|d_it| ≥ 1, d = log π_old − log π_sampler: 1 only if they agree on every token.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> d = np.log(np.array([[2.0, 0.5]]))  # the mean of d is 0
    >>> np.exp(MeanAbsolute().log_weight(d, Padded(d == d))).round(12).tolist()
    [2.0]
    """

    per_token: ClassVar[bool] = False
    is_weight: ClassVar[bool] = False

    def log_weight(self, d: Array, layout: Layout) -> Array:
        """[N] log of the mean of e^|d|."""
        xp = layout.xp
        size = xp.abs(d)
        near = size <= 1.0
        large, _ = exp_finite(xp, xp.where(near, 0.0, size))
        return xp.log1p(mean_over_tokens(xp.where(near, xp.expm1(xp.where(near, size, 0.0)), large - 1.0), layout))


@dataclass(frozen=True)
class MeanK3:
    """w_i = 1 + (1/|y_i|) Σ_t (e^d_it − 1 − d_it): 1 and the k3 estimate of KL(π_sampler‖π_old) per token; nats.

    Reject(0.0, 1.001, drop=True) keeps the responses whose estimate is at most 0.001.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> d = np.log(np.array([[2.0, 0.5]]))
    >>> np.expm1(MeanK3().log_weight(d, Padded(d == d))).round(4).tolist()  # (1 − log 2 − 1/2 + log 2) / 2
    [0.25]
    """

    per_token: ClassVar[bool] = False
    is_weight: ClassVar[bool] = False

    def log_weight(self, d: Array, layout: Layout) -> Array:
        """[N] log(1 + mean of k3)."""
        xp = layout.xp
        return xp.log1p(mean_over_tokens(K3()(xp, d, xp.zeros_like(d)).value, layout))


@dataclass(frozen=True)
class TokensInside:
    """w_i = share of the response's tokens with low ≤ e^d_it ≤ high; a token whose d is NaN is outside.

    Reject(1.0, math.inf, drop=True) lets a single token outside veto its response, Reject(0.99, ...) one in a hundred.
    0 ≤ low ≤ 1 ≤ high, one of them a real bound, else ValueError.

    Source: the veto is that of verl, for tokens with e^d below 1e-4.

    >>> import numpy as np
    >>> from gspo_core import Padded
    >>> d = np.log(np.array([[1.0, 1.5, 1e-5, 1.0]]))
    >>> np.exp(TokensInside(1e-4, math.inf).log_weight(d, Padded(d == d))).round(12).tolist()
    [0.75]
    """

    low: float
    """Smallest weight of a token that is inside; 0 for none."""
    high: float
    """Largest weight of a token that is inside; math.inf for none."""
    per_token: ClassVar[bool] = False
    is_weight: ClassVar[bool] = False

    def __post_init__(self) -> None:
        hold_numbers(self, "low", "high")
        log_bounds(self.low, self.high)

    def log_weight(self, d: Array, layout: Layout) -> Array:
        """[N] log of the share, below 0 by at least the share of one token if there is one outside."""
        xp = layout.xp
        low, high = log_bounds(self.low, self.high)
        outside = layout.valid & ~((d >= low) & (d <= high))
        share = xp.astype(count_tokens(layout, outside, xp.int32), d.dtype) / layout.safe_lengths(d)
        return xp.where(share < 1, xp.log1p(0.0 - xp.where(share < 1, share, 0.0)), -math.inf)
