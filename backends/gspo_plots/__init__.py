"""Pictures of sequence ratios: spread, clipping, causes. The extra [plots] installs matplotlib.

Each function takes plain arrays or the core's values and an optional `ax`, and returns the axes it drew on:

    log_s_histogram(pilot, clip, law)                     log s by sign of the advantage, the clip range, a normal law
    clip_fraction_by_length(pilot, clip, edges)           the clip fraction under three laws of clipping
    spread_by_length(pilot, edges)                        sd of log s against |y|, with the fitted exponent
    design_effect_over_training(steps, series)            the correlation of log ratios within a response
    variance_decomposition({"free": report, ...})         shares of staleness and engine noise
    clip_fraction_by_mini_batch(fractions)                the clip fraction within a rollout

`gspo_plots.style` has the colours, markers and legends that all pictures of this project use.
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
