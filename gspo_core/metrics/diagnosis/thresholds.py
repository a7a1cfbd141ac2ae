"""The limits beyond which `diagnose` reports something."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from gspo_core._lib.checks import as_whole, hold_numbers
from gspo_core.mismatch.mass_gap import NEGLIGIBLE, SURE


@dataclass(frozen=True)
class Thresholds:
    """The limits beyond which `diagnose` reports something: judgements, not theorems.

    A limit of ∞, or of 1 for a share, switches its finding off. Raises TypeError for what is no number, ValueError for one
    that is negative or NaN and for a share above 1; also for `window`, `responses` and `crowd` that are no whole number of
    at least 1.

    >>> Thresholds(clipped=0.4).clipped
    0.4
    """

    positive: float = 1e-3
    """A log-prob above 0 by no more than this is rounding; nats."""
    unlike: float = 0.6
    """Unlikeness of the log-probs of two policies (see `summary`) from which on they are not of the same tokens. Noise of any
    size that one has and the other has not stays below ½."""
    telescoped: float = 0.25
    """Design effect below which unlike log-probs are shifted: within a response their differences then cancel. It is about 1
    for rows that are mixed, and one over the length, or less, for tokens that are shifted."""
    far: float = 0.5
    """Root mean square of d = log π − log π_old over tokens that no rollout's updates should reach; nats."""
    dominant: float = 0.9
    """Share of the gradient that one response may have. The only solved one of a group has half of it, and more where the
    others are clipped ..."""
    crowd: int = 4
    """... if this many responses or more have a gradient."""
    still: float = 1e-7
    """Log ratios up to this size are rounding: the policy has not moved; nats."""
    zero_loss: float = 1e-6
    """A loss up to this share of the mean |A| counts as 0."""
    window: int = 2
    """With this many updates or more, ratios that are all 1 are a mistake. In the first one of a rollout they are right; its
    micro-batches are one update if they were divided by the count of all."""
    clipped: float = 0.25
    """Share of the responses with an advantage that may be clipped. Even a range of no width clips no more than about half:
    for each sign of the advantage only one side counts."""
    wide: float = 0.1
    """Share of the clip range that the largest |log s| has to reach."""
    responses: int = 32
    """Minimum number of responses before anything is said about the clip range or the sampler."""
    unequal_lengths: float = 0.1
    """Standard deviation of the lengths over their mean, from which on a weight by length matters."""
    sure: float = SURE
    """Standard errors by which the sampler's mass gap must be off to be a bias."""
    negligible: float = NEGLIGIBLE
    """A mass gap per token that is too small to matter: 10 % of the weight of a 10,000-token response."""
    noise: float = 0.25
    """Standard deviation of log s between the engines over the nearer bound of the clip range, from which on it is reported."""

    def __post_init__(self) -> None:
        for name in _WHOLE:
            object.__setattr__(self, name, as_whole(name, getattr(self, name), 1))
        names = [field.name for field in fields(self) if field.name not in _WHOLE]
        hold_numbers(self, *names)
        for name in names:
            value, most = getattr(self, name), 1.0 if name in _SHARES else math.inf
            if not 0.0 <= value <= most:
                expected = "a share from 0 to 1" if name in _SHARES else "a number of at least 0"
                raise ValueError(f"{name}: expected {expected}, got {value}")


_WHOLE = ("window", "responses", "crowd")
_SHARES = ("clipped", "dominant")
