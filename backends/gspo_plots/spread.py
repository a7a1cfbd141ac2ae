"""The spread of log s: by length, by correlation within a response, by engine noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gspo_core import Pilot
from gspo_core.mismatch import MismatchReport

from .style import HATCHES, REFERENCE, SERIES, axes_or_new, finish, plain_log, whole_numbers


def spread_by_length(pilot: Pilot, edges: Sequence[int], *, ax: Axes | None = None) -> Axes:
    """Standard deviation of log s against length, both logarithmic, with the fitted exponent.

    The exponent is −1/2 if tokens move independently (noise), 0 if a response moves as one (drift). Left out are responses
    with log s = 0, and bins of fewer than two. The fit is by least squares in the logarithms, weighted by the number
    of responses.

    Args:
        pilot: the responses.
        edges: ascending; bin j holds edges[j] ≤ |y| < edges[j + 1].
        ax: where to draw; None: a new figure.

    Returns: the axes; the first line is the measured spread, the second the fit, the third has the exponent −1/2.

    Raises: ValueError if there are fewer than two bins to fit a line through.

    >>> pilot = Pilot([0.4, -0.4, 0.1, -0.1], [4, 4, 64, 64], [1.0, -1.0, 1.0, -1.0])  # 16 times the length, a quarter
    >>> ax = spread_by_length(pilot, [1, 16, 256])
    >>> ax.lines[1].get_label()
    'fit: $|y|^{-0.50}$'
    """
    moved = pilot.log_s != 0
    bins = [moved & (pilot.lengths >= a) & (pilot.lengths < b) for a, b in pairwise(edges)]
    bins = [own for own in bins if own.sum() > 1 and pilot.log_s[own].std() > 0]
    if len(bins) < 2:
        raise ValueError(f"edges: {len(bins)} of the bins hold two responses that differ; a line needs two such bins")
    ax = axes_or_new(ax)
    lengths = np.array([pilot.lengths[own].mean() for own in bins])
    spread = np.array([pilot.log_s[own].std(ddof=1) for own in bins])
    weights = np.sqrt([own.sum() for own in bins])
    exponent, height = np.polyfit(np.log(lengths), np.log(spread), 1, w=weights)
    ax.plot(lengths, spread, SERIES[0].marker, color=SERIES[0].color, ms=6, label="measured")
    ax.plot(lengths, np.exp(height) * lengths**exponent, color=SERIES[0].color, lw=1.4, label=f"fit: $|y|^{{{exponent:.2f}}}$")
    middle = np.exp(np.average(np.log(lengths), weights=weights**2))
    reference = np.exp(height) * middle**exponent * np.sqrt(middle / lengths)
    ax.plot(lengths, reference, color=REFERENCE, lw=1.2, ls="--", label="independent tokens: $|y|^{-0.50}$")
    plain_log(ax, "x")
    plain_log(ax, "y")
    return finish(ax, "Spread of log s by length", "response length |y|, tokens", "sd of log s, nats per token")


def design_effect_over_training(
    steps: Sequence[float], design_effects: Mapping[str, Sequence[float]], *, ax: Axes | None = None
) -> Axes:
    """Design effect over a run, the correlation of log ratios within a response: above 1 for staleness, 1 for engine noise.

    Args:
        steps: [n] rollouts or optimizer steps.
        design_effects: name ↦ [n] numbers, of `estimate_drift` or of the parts of `mismatch_report`.
        ax: where to draw; None: a new figure.

    Returns: the axes, with one line for each name, in their order.

    Raises: ValueError if a series has another length than `steps`, or there is none.

    >>> ax = design_effect_over_training([10, 20], {"staleness": [3.5, 3.0], "noise": [1.0, 1.0]})
    >>> ax.lines[0].get_label()
    'staleness'
    """
    if not design_effects:
        raise ValueError("design_effects: expected at least one series")
    for name, values in design_effects.items():
        if len(values) != len(steps):
            raise ValueError(f"design_effects: {name} has {len(values)} numbers for {len(steps)} steps")
    ax = axes_or_new(ax)
    for index, (name, values) in enumerate(design_effects.items()):
        ax.plot(steps, values, label=name, **SERIES[index % len(SERIES)].line)
    ax.axhline(1.0, color=REFERENCE, lw=0.8, ls=":")
    ax.set_ylim(bottom=0.0)
    whole_numbers(ax.xaxis)
    return finish(ax, "Design effect (1: tokens move independently)", "step", "design effect D")


def variance_decomposition(reports: Mapping[str, MismatchReport], *, ax: Axes | None = None) -> Axes:
    """Variance of the token log ratios and of log s, split into staleness and engine noise, for several runs.

    Each level is divided by the first run's sum, so that the two can be compared: a remedy such as routing replay lowers
    the bars, and the split shows how much smaller the share of noise is in log s than in the tokens.

    Args:
        reports: name ↦ report, e.g. free and replayed.
        ax: where to draw; None: a new figure.

    Returns: the axes; the bars are tokens of each run, then responses of each run: all staleness bars first, then noise.

    Raises: ValueError if there is no report, or nothing varies in the first.

    >>> from gspo_core import Clip, Padded
    >>> from gspo_core.mismatch import mismatch_report
    >>> old, drift, noise = np.full((2, 2), -1.0), np.array([[0.1], [-0.1]]), np.array([[0.1, -0.1], [0.1, -0.1]])
    >>> report = mismatch_report(old + drift, old, old - noise, np.ones(2), Padded(old < 0), Clip(0.1, 0.1))
    >>> ax = variance_decomposition({"free": report})
    >>> [round(float(bar.get_height()), 3) for bar in ax.containers[1]]  # noise: half of the tokens' variance, nothing of log s
    [0.5, 0.0]
    """
    if not reports:
        raise ValueError("reports: expected at least one")
    levels = {
        "tokens": [(float(r.staleness.token_std) ** 2, float(r.noise.token_std) ** 2) for r in reports.values()],
        "log s": [(float(r.staleness.log_s_std) ** 2, float(r.noise.log_s_std) ** 2) for r in reports.values()],
    }
    if not all(sum(parts[0]) > 0 for parts in levels.values()):
        raise ValueError("reports: nothing varies in the first, which is the unit")
    ax = axes_or_new(ax)
    names = [f"{name}\n{level}" for level in levels for name in reports]
    stale, noise = ([part[i] / sum(parts[0]) for parts in levels.values() for part in parts] for i in (0, 1))
    where = [i + 0.6 * (i >= len(reports)) for i in range(len(names))]
    looks: list[dict[str, Any]] = [
        {"color": SERIES[i].color, "hatch": HATCHES[i], "edgecolor": "white", "width": 0.7} for i in (0, 1)
    ]
    ax.bar(where, stale, label="staleness: π/π_old", **looks[0])
    ax.bar(where, noise, bottom=stale, label="noise: π_old/π_sampler", **looks[1])
    for x, a, b in zip(where, stale, noise, strict=True):
        if a + b > 0:
            ax.annotate(f"{b / (a + b):.0%} noise", (x, a + b), ha="center", va="bottom", fontsize=8)
    ax.set_xticks(where, names)
    ax.set_ylim(0, 1.4 * max(a + b for a, b in zip(stale, noise, strict=True)))
    return finish(ax, "Where the variance comes from", "", f"variance ({next(iter(reports))} = 1)", legend="upper right")
