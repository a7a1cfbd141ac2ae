"""Pictures of what a sequence ratio does. Needs matplotlib (`pip install "gspo-core[plots]"`); the core does not.

Each function takes plain arrays or the core's values and an optional `ax`, and returns the axes it drew on:

    log_s_histogram(pilot, clip, law)                     log s by sign of the advantage, the band, a normal law
    clip_fraction_by_length(pilot, clip, edges)           three laws of clipping, which treat lengths differently
    spread_by_length(pilot, edges)                        sd of log s against |y|, with the fitted exponent
    design_effect_over_training(steps, series)            how far the tokens of a response move together
    variance_decomposition({"free": report, ...})         staleness and engine noise, in tokens and in log s
    clip_fraction_by_mini_batch(fractions)                how the policy leaves the one that sampled
"""

import importlib.util

if importlib.util.find_spec("matplotlib") is None:
    raise ImportError('gspo_plots needs matplotlib: pip install "gspo-core[plots]"')

from .clipping import clip_fraction_by_length, clip_fraction_by_mini_batch, log_s_histogram
from .spread import design_effect_over_training, spread_by_length, variance_decomposition

__all__ = [
    "clip_fraction_by_length",
    "clip_fraction_by_mini_batch",
    "design_effect_over_training",
    "log_s_histogram",
    "spread_by_length",
    "variance_decomposition",
]
