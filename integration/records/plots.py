"""The six plots of a run: reward, clip fractions, log s, response length, gradient norm, and distance by mini-batch."""

from __future__ import annotations

from typing import Any

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


def plots(folder: RunFolder) -> Figure:
    """Reward and accuracy, clip fractions, log s against the band, response length, gradient norm, spread by mini-batch."""
    metrics, evaluations = folder.rows("metrics.jsonl"), folder.rows("evaluations.jsonl")
    clip: Any = Config.from_json(folder.config()).build_objective().surrogate
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    steps = [row["step"] for row in metrics]
    _reward(axes[0, 0], steps, metrics, evaluations)
    for key, color, dash, label in (
        ("clip_fraction", GREY, "-", "both"),
        ("clip_low", VERMILION, "--", "low (A < 0)"),
        ("clip_high", BLUE, "-.", "high (A > 0)"),
    ):
        _curve(axes[0, 1], steps, [r[key] for r in metrics], color, label, dash)
    advised = [r for r in metrics if r.get("clip_range") is not None]
    if advised:
        predicted = [r["predicted_clip_fraction"] for r in advised]
        _curve(axes[0, 1], [r["step"] for r in advised], predicted, BLACK, "predicted", ":")
        clip = Clip(*advised[-1]["clip_range"])
    _room_for_legend(axes[0, 1])
    finish(axes[0, 1], "Clip fraction", "rollout", "share of units", legend="upper right")
    _log_s(axes[0, 2], advised or metrics, getattr(clip, "low", 0.0), getattr(clip, "high", 0.0))
    _curve(axes[1, 0], steps, [r["response_length"] for r in metrics], GREEN)
    finish(axes[1, 0], "Response length", "rollout", "tokens", legend=None)
    _curve(axes[1, 1], steps, [r["grad_norm"] if r["grad_norm"] is not None else float("nan") for r in metrics], BLUE)
    finish(axes[1, 1], "Gradient norm before clipping", "rollout", "norm", legend=None)
    _by_mini_batch(axes[1, 2], metrics)
    for ax in (*axes[0, :2], *axes[1]):
        whole_numbers(ax.xaxis)
    return figure


def _curve(axes: Axes, steps: list[int], values: list[float], color: str, label: str | None = None, dash: str = "-") -> None:
    """Every value, faint, and their running mean over a twentieth of the run."""
    half = len(values) // 40
    if half:
        windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
        axes.plot(steps, values, color=color, lw=0.8, alpha=0.2)
        axes.plot(steps, [sum(w) / len(w) for w in windows], color=color, lw=1.8, ls=dash, label=label)
    else:
        axes.plot(steps, values, color=color, lw=0.8, ls=dash, label=label)


def _reward(axes: Axes, steps: list[int], metrics: list[Row], evaluations: list[Row]) -> None:
    _curve(axes, steps, [r["reward"] for r in metrics], GREY, "training reward")
    where = [r["step"] for r in evaluations]
    axes.plot(where, [r["sampled_accuracy"] for r in evaluations], "o-", color=BLUE, label="held-out, sampled")
    axes.plot(where, [r["greedy_accuracy"] for r in evaluations], "s--", color=GREEN, label="held-out, greedy")
    axes.set_ylim(-0.02, 1.02)
    finish(axes, "Reward and held-out accuracy", "rollout", "mean")


def _log_s(axes: Axes, metrics: list[Row], low: float, high: float) -> None:
    values = [x for row in metrics for x in row["log_s"]]
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


def _by_mini_batch(axes: Axes, metrics: list[Row]) -> None:
    count = max((len(r["by_mini_batch"]) for r in metrics), default=0)
    lines = (("log_s_rms", BLUE, "o-", "rms of log s"), ("clip_fraction", VERMILION, "s--", "clip fraction"))
    for key, color, look, label in lines:
        columns = [[r["by_mini_batch"][i][key] for r in metrics if i < len(r["by_mini_batch"])] for i in range(count)]
        axes.plot(range(1, count + 1), [sum(c) / len(c) for c in columns], look, color=color, label=label)
    finish(axes, "Distance from the sampling policy", "mini-batch of the rollout", "mean over rollouts")


def _room_for_legend(axes: Axes) -> None:
    """More height, so that a legend at the top covers no curve; and nothing much below 0, also where every share is 0."""
    top = 1.45 * axes.get_ylim()[1]
    axes.set_ylim(-0.02 * top, top)
