"""The six plots of a run: reward, clip fractions, log s, response length, gradient norm, and distance by mini-batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from gspo_plots.style import BLACK, BLUE, GREEN, GREY, RANGE, VERMILION, finish, plain_log, whole_numbers
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gspo_core import Clip
from integration.options.config import Config
from integration.records.json_lines import Row
from integration.records.run_folder import RunFolder


class Shown(NamedTuple):
    """What the plots show."""

    metrics: list[Row]
    evaluations: list[Row]
    clip: Any
    """The objective's surrogate, which may have a clip range."""

    @property
    def steps(self) -> list[int]:
        """The rollouts."""
        return [row["step"] for row in self.metrics]

    @property
    def advised(self) -> list[Row]:
        """The rollouts with a clip range from the pilot."""
        return [row for row in self.metrics if row.get("clip_range") is not None]


def plots(folder: RunFolder) -> Figure:
    """All six in one picture."""
    shown = _shown(folder)
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    for ax, (draw, _) in zip(axes.flat, PLOTS, strict=True):
        draw(ax, shown)
    return figure


def captioned(folder: RunFolder) -> Iterator[tuple[Figure, str]]:
    """Each of them in a picture of its own, with its caption."""
    shown = _shown(folder)
    for draw, caption in PLOTS:
        figure, ax = plt.subplots(figsize=(5, 4), layout="constrained")
        draw(ax, shown)
        yield figure, caption


def _shown(folder: RunFolder) -> Shown:
    clip: Any = Config.from_json(folder.config()).build_objective().surrogate
    return Shown(folder.rows("metrics.jsonl"), folder.rows("evaluations.jsonl"), clip)


FEW = 10
"""Rollouts below which there is nothing to average."""


def _curve(axes: Axes, steps: list[int], values: list[float], color: str, label: str | None = None, dash: str = "-") -> None:
    """Every value, faint, and a moving average over a twentieth of the run, five rollouts at least; none of a few rollouts."""
    half = max(2, len(values) // 40)
    if len(values) >= FEW:
        windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
        axes.plot(steps, values, color=color, lw=0.8, alpha=0.2)
        axes.plot(steps, [sum(w) / len(w) for w in windows], color=color, lw=1.8, ls=dash, label=label)
    else:
        axes.plot(steps, values, color=color, lw=0.8, ls=dash, label=label)


def _reward(axes: Axes, shown: Shown) -> None:
    _curve(axes, shown.steps, [r["reward"] for r in shown.metrics], GREY, "training reward")
    where = [r["step"] for r in shown.evaluations]
    axes.plot(where, [r["sampled_accuracy"] for r in shown.evaluations], "o-", color=BLUE, label="held-out, sampled")
    axes.plot(where, [r["greedy_accuracy"] for r in shown.evaluations], "s--", color=GREEN, label="held-out, greedy")
    axes.set_ylim(-0.02, 1.02)
    finish(axes, "Reward and held-out accuracy", "rollout", "mean")
    whole_numbers(axes.xaxis)


def _clip_fractions(axes: Axes, shown: Shown) -> None:
    for key, color, dash, label in (
        ("clip_fraction", GREY, "-", "both"),
        ("clip_low", VERMILION, "--", "low (A < 0)"),
        ("clip_high", BLUE, "-.", "high (A > 0)"),
    ):
        _curve(axes, shown.steps, [r[key] for r in shown.metrics], color, label, dash)
    if shown.advised:
        predicted = [r["predicted_clip_fraction"] for r in shown.advised]
        _curve(axes, [r["step"] for r in shown.advised], predicted, BLACK, "predicted", ":")
    _room_for_legend(axes)
    finish(axes, "Clip fraction", "rollout", "share of units", legend="upper right")
    whole_numbers(axes.xaxis)


def _length(axes: Axes, shown: Shown) -> None:
    _curve(axes, shown.steps, [r["response_length"] for r in shown.metrics], GREEN)
    finish(axes, "Response length", "rollout", "tokens", legend=None)
    whole_numbers(axes.xaxis)


def _norm(axes: Axes, shown: Shown) -> None:
    norms = [r["grad_norm"] if r["grad_norm"] is not None else float("nan") for r in shown.metrics]
    _curve(axes, shown.steps, norms, BLUE)
    finish(axes, "Gradient norm before clipping", "rollout", "norm", legend=None)
    whole_numbers(axes.xaxis)


def _log_s(axes: Axes, shown: Shown) -> None:
    advised = shown.advised
    clip = Clip(*advised[-1]["clip_range"]) if advised else shown.clip
    low, high = getattr(clip, "low", 0.0), getattr(clip, "high", 0.0)
    values = [x for row in advised or shown.metrics for x in row["log_s"]]
    edge = 3 * max(low, high) or max((abs(x) for x in values), default=0.0) or 1e-6
    if values:
        heights, bins = np.histogram(np.clip(values, -edge, edge), bins=80, range=(-edge, edge))
        axes.stairs(heights, bins, color=BLUE, fill=True)
        plain_log(axes, "y", (1.0,))
        axes.set_ylim(0.5, 20 * float(heights.max()))  # room for the legend
    has_range = low > 0 or high > 0  # some objectives have none
    if has_range:
        axes.axvspan(-low, high, color=RANGE, alpha=0.2, label=f"clip range −{low:.3g} … +{high:.3g}")
    title = "log s of responses with A ≠ 0 (end bins: and beyond)"
    finish(axes, title, "log s, nats per token", "responses", legend="upper right" if has_range else None)


def _by_mini_batch(axes: Axes, shown: Shown) -> None:
    metrics = shown.metrics
    count = max((len(r["by_mini_batch"]) for r in metrics), default=0)
    lines = (("log_s_rms", BLUE, "o-", "rms of log s"), ("clip_fraction", VERMILION, "s--", "clip fraction"))
    for key, color, look, label in lines:
        columns = [[r["by_mini_batch"][i][key] for r in metrics if i < len(r["by_mini_batch"])] for i in range(count)]
        axes.plot(range(1, count + 1), [sum(c) / len(c) for c in columns], look, color=color, label=label)
    finish(axes, "Distance from the sampling policy", "mini-batch of the rollout", "mean over rollouts")
    whole_numbers(axes.xaxis)


def _room_for_legend(axes: Axes) -> None:
    """More height, so that a legend at the top covers no curve; and nothing much below 0, also where every share is 0."""
    top = 1.45 * axes.get_ylim()[1]
    axes.set_ylim(-0.02 * top, top)


PLOTS: tuple[tuple[Callable[[Axes, Shown], None], str], ...] = (
    (
        _reward,
        "Faint: the mean reward of each rollout, which depends on the questions drawn; bold: the moving average. Points: the "
        "share of held-out questions answered right, the same questions at each point. The verifier may give partial credit: "
        "the reward can be above the accuracy.",
    ),
    (
        _clip_fractions,
        "The share of responses (of tokens, for objectives with a ratio per token) whose gradient the clip range takes away. "
        "Low: bad answers made less likely than the range allows; high: good answers made more likely.",
    ),
    (
        _log_s,
        "log s is how far a response's mean log-prob per token has moved since it was sampled. Outside of the shaded clip "
        "range, on the side to which its advantage pushes, a response has no gradient any more.",
    ),
    (_length, "The mean number of tokens of a response, cut at --max-new-tokens."),
    (
        _norm,
        "The length of the gradient before it is scaled down to --max-grad-norm, a mean over the rollout's optimizer steps.",
    ),
    (
        _by_mini_batch,
        "The first mini-batch is taken with the weights that sampled: s is 1 and nothing is clipped. Each later one finds the "
        "policy further away.",
    ),
)
