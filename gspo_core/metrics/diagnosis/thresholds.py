"""The limits beyond which `diagnose` reports something."""

from __future__ import annotations

from dataclasses import dataclass

from gspo_core.mismatch.mass_gap import NEGLIGIBLE, SURE


@dataclass(frozen=True)
class Thresholds:
    """The limits beyond which `diagnose` reports something: judgements, not theorems.

    >>> Thresholds(clipped=0.4).clipped
    0.4
    """

    still: float = 1e-7
    """Log ratios up to this size are rounding: the policy has not moved; nats."""
    zero_loss: float = 1e-6
    """A loss up to this share of the mean |A| counts as 0."""
    window: int = 2
    """With this many batches or more, ratios that are all 1 are a mistake. In the first update of a rollout they are right."""
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
