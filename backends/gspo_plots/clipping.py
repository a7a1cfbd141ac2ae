"""Clipping: log s against the clip range, and the clip fraction by length and by mini-batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes

from gspo_core import Clip, Pilot
from gspo_core.clip_range import BySign, Drift

from .style import BLACK, NEGATIVE, POSITIVE, RANGE, REFERENCE, SERIES, axes_or_new, finish, plain_log, whole_numbers

CLIP_LAWS = ((0.0, "|S| ≤ c", SERIES[1]), (0.5, "|S| ≤ c √|y|", SERIES[3]), (1.0, "|S| ≤ c |y| (GSPO)", SERIES[0]))
"""Power of |y| in the bound on S = log π(y)/π_old(y), the name of the law, and its look."""


def log_s_histogram(
    pilot: Pilot, clip: Clip, law: BySign | Drift | None = None, *, bins: int = 60, ax: Axes | None = None
) -> Axes:
    """Histogram of log s for A > 0 and for A < 0, with the clip range and the counts that a normal law predicts.

    Responses with log s = 0 exactly are left out. The axis ends at three times the wider bound, or at the largest |log s|;
    responses beyond it are counted in the end bins.

    Args:
        pilot: the responses.
        clip: the clip range.
        law: the normal law to compare with, evaluated at the length of each response.
        bins: number of bins.
        ax: where to draw; None: a new figure.

    Returns: the axes. The first two lines are the counts (A > 0, A < 0), the next two, if there is a law, the expected ones.

    Raises: ValueError if no response has moved.

    >>> pilot = Pilot([0.01, -0.05, 0.02, 0.0], [5, 4, 6, 5], [1.0, -1.0, 1.0, 0.0])
    >>> ax = log_s_histogram(pilot, Clip(0.03, 0.04))
    >>> [float(line.get_ydata().sum()) for line in ax.lines[:2]]  # responses with A > 0, and with A < 0
    [2.0, 1.0]
    """
    moved = (pilot.log_s != 0) & (pilot.advantage != 0)
    if not moved.any():
        raise ValueError("pilot: no response has an advantage and has moved, there is nothing to draw")
    ax = axes_or_new(ax)
    bounds = math.log1p(-clip.low), math.log1p(clip.high)
    edge = min(3 * max(-bounds[0], bounds[1]), 1.05 * float(np.abs(pilot.log_s[moved]).max()))
    edges = np.linspace(-edge, edge, bins + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    sides = ((1.0, POSITIVE, "A > 0"), (-1.0, NEGATIVE, "A < 0"))
    most = 1
    for sign, color, name in sides:
        own = moved & (sign * pilot.advantage > 0)
        counts, _ = np.histogram(np.clip(pilot.log_s[own], -edge, edge), edges)
        most = max(most, int(counts.max()))
        ax.step(centres, counts, where="mid", color=color, lw=1.6, label=f"{name} ({int(own.sum())})")
    if law is not None:
        both = BySign(law, law) if isinstance(law, Drift) else law
        for (sign, color, name), side in zip(sides, both, strict=True):
            expected = _expected(side, pilot.lengths[moved & (sign * pilot.advantage > 0)], edges)
            ax.plot(centres, expected, color=color, lw=1.2, ls="--", label=f"{name}, normal")
    ax.axvspan(*bounds, color=RANGE, alpha=0.12, lw=0, label=f"clip range −{clip.low:.3g} … +{clip.high:.3g}")
    ax.axvline(0.0, color=REFERENCE, lw=0.8)
    plain_log(ax, "y", (1.0,))
    ax.set_ylim(0.5, 30 * most)  # room for the legend
    return finish(ax, "log s by sign of the advantage (end bins: and beyond)", "log s, nats per token", "responses")


def _expected(law: Drift, lengths: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Expected counts per bin: differences of the tails of the law, at the length of each response."""
    above = np.array([law.tails(-math.inf, float(edge), lengths).high.sum() for edge in edges])
    return np.asarray(above[:-1] - above[1:])


def clip_fraction_by_length(pilot: Pilot, clip: Clip, edges: Sequence[int], *, ax: Axes | None = None) -> Axes:
    """The clip fraction in bins of length, for three laws of clipping that clip equally many responses in total.

    With S = |y| log s: a fixed band |S| ≤ c, one in proportion to √|y| (FSPO), and one in proportion to |y|, which is GSPO's
    clip of log s. The c of the first two, in the same proportion above and below, clips as many of the pilot's responses
    as `clip` does. A flat curve treats all lengths alike.

    Args:
        pilot: the responses.
        clip: the clip range of GSPO.
        edges: ascending; bin j holds edges[j] ≤ |y| < edges[j + 1]. Empty bins are left out.
        ax: where to draw; None: a new figure.

    Returns: the axes; its first three lines are the laws, from power 0 to power 1, over the bins' mean lengths.

    Raises: ValueError if no response is in a bin.

    >>> pilot = Pilot([0.06, 0.02, 0.03, 0.01], [4, 4, 64, 64], [1.0, 1.0, 1.0, 1.0])
    >>> ax = clip_fraction_by_length(pilot, Clip(0.04, 0.04), [1, 16, 256])
    >>> [list(map(float, line.get_ydata())) for line in ax.lines[:3]]  # short, long: fixed band, √|y|, |y|
    [[0.0, 0.5], [0.0, 0.5], [0.5, 0.0]]
    """
    inside = [(pilot.lengths >= a) & (pilot.lengths < b) for a, b in pairwise(edges)]
    inside = [own for own in inside if own.any()]
    if not inside:
        raise ValueError(f"edges: none of the pilot's responses has a length in {list(edges)}")
    ax = axes_or_new(ax)
    lengths = [float(pilot.lengths[own].mean()) for own in inside]
    total = _clipped(pilot, clip, 1.0).mean()
    for power, name, look in CLIP_LAWS:
        cut = _clipped(pilot, clip, power)
        ax.plot(lengths, [float(cut[own].mean()) for own in inside], label=name, **look.line)
    ax.axhline(total, color=REFERENCE, lw=0.8, ls=":")
    ax.annotate(
        "all lengths", (0.98, total), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=BLACK, fontsize=8
    )
    if max(lengths) > 4 * min(lengths):
        plain_log(ax, "x")
    ax.set_ylim(bottom=0.0)
    return finish(ax, "Clip fraction by length, three laws of clipping", "response length |y|, tokens", "share of responses")


def _clipped(pilot: Pilot, clip: Clip, power: float) -> np.ndarray:
    """[n] whether |S| leaves a band in proportion to |y|^power that clips as many responses as `clip`."""
    low, high = -math.log1p(-clip.low), math.log1p(clip.high)
    # How far a response is out, in units of its own bound: beyond 1 it is clipped by GSPO.
    signed = np.where(pilot.advantage > 0, pilot.log_s / high, np.where(pilot.advantage < 0, -pilot.log_s / low, -math.inf))
    target = int((signed > 1.0).sum())
    if power == 1.0:
        return np.asarray(signed > 1.0)
    scaled = signed * pilot.lengths ** (1.0 - power)
    if target == 0:
        return np.zeros(scaled.shape, dtype=bool)
    return np.asarray(scaled >= np.sort(scaled)[::-1][target - 1])


def clip_fraction_by_mini_batch(
    fractions: np.ndarray, predicted: Sequence[float] | None = None, *, ax: Axes | None = None
) -> Axes:
    """The clip fraction of each mini-batch of a rollout; it grows with the distance from the sampling policy.

    Args:
        fractions: [rollouts, mini-batches].
        predicted: one number for each mini-batch, to compare with.
        ax: where to draw; None: a new figure.

    Returns: the axes; the first line is the mean over rollouts, the shade the middle half of the rollouts.

    Raises: ValueError for a wrong shape.

    >>> ax = clip_fraction_by_mini_batch(np.array([[0.0, 0.125], [0.0, 0.375]]))
    >>> ax.lines[0].get_ydata().tolist()
    [0.0, 0.25]
    """
    values = np.asarray(fractions, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"fractions: expected shape [rollouts, mini-batches], got {list(values.shape)}")
    if predicted is not None and len(predicted) != values.shape[1]:
        raise ValueError(f"predicted: expected {values.shape[1]} numbers, one for each mini-batch, got {len(predicted)}")
    ax = axes_or_new(ax)
    index = np.arange(1, values.shape[1] + 1)
    ax.plot(index, values.mean(0), label=f"mean of {len(values)} rollouts", **SERIES[0].line)
    ax.fill_between(
        index, *np.quantile(values, [0.25, 0.75], axis=0), color=SERIES[0].color, alpha=0.15, lw=0, label="middle half"
    )
    if predicted is not None:
        ax.plot(index, predicted, label="predicted", **SERIES[1].line)
    whole_numbers(ax.xaxis)
    ax.set_ylim(bottom=0.0)
    return finish(ax, "Clip fraction by mini-batch", "mini-batch of the rollout", "share of responses", legend="upper left")
