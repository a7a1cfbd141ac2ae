"""Findings about the sampling engine."""

from __future__ import annotations

import math

from gspo_core.mismatch.mass_gap import is_bias
from gspo_core.objectives.loss import Objective

from .findings import Finding, FindingKind, Numbers
from .ratios import band_of
from .thresholds import Thresholds


def sampler(numbers: Numbers, objective: Objective | None, limits: Thresholds) -> list[Finding]:
    """The sampling engine: a mean of π_old/π_sampler other than 1 is a bias, the spread of log s is noise."""
    if "sampler_mass_gap_error" not in numbers or numbers["sampler_sequences"] < limits.responses:
        return []
    found = []
    if is_bias(numbers["sampler_mass_gap"], numbers["sampler_mass_gap_error"], limits.sure, limits.negligible):
        sentence = (
            "Per token, π_old/π_sampler is {mass:.5g} on average and should be 1, with a standard error of "
            "{sampler_mass_gap_error:.2g}. Its log has the mean {sampler_log_s_mean:.3g} over responses. Noise would "
            "average out: compare temperature, top-p and top-k, and the logits from which the engine computes its log-probs. A "
            "top-p of 0.9 gives about 0.9."
        )
        mass = {**numbers, "mass": 1.0 + numbers["sampler_mass_gap"]}
        found.append(Finding.of(FindingKind.SAMPLER_BIAS, mass, sentence))
    band = band_of(objective)
    if band and numbers["sampler_log_s_std"] > limits.noise * min(band):
        sentence = (
            "Between trainer and sampler alone, before any update, log s has the standard deviation {sampler_log_s_std:.2g}, "
            "{share:.0%} of the clip range's nearer bound ({nearer:.2g}). Do not take the sampler's log-probs as the "
            "old ones, or take a sampler of higher precision."
        )
        nearer = {"nearer": min(band), "share": numbers["sampler_log_s_std"] / min(band) if min(band) else math.inf}
        found.append(Finding.of(FindingKind.SAMPLER_NOISE, {**numbers, **nearer}, sentence))
    return found
