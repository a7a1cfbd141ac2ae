"""A run as one self-contained page: what was asked, what came out, six plots, transcripts before and after."""

from __future__ import annotations

import base64
import html
import io
import json
import random
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from gspo_plots.style import BLACK, BLUE, GREEN, GREY, RANGE, VERMILION, finish, plain_log, whole_numbers
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gspo_core import Clip
from integration.shared.config import Config
from integration.shared.json_lines import Row
from integration.shared.run_folder import RunFolder


def write_report(folder: RunFolder) -> Path:
    """Write report.html and report.png into the run's folder; returns the page's path."""
    figure = plots(folder)
    figure.savefig(folder.path / "report.png", dpi=110)
    picture = io.BytesIO()
    figure.savefig(picture, format="svg")
    plt.close(figure)
    page = PAGE.format(
        title=html.escape(folder.path.name),
        summary=html.escape(summary(folder)).replace("\n", "<br>"),
        picture=base64.b64encode(picture.getvalue()).decode(),
        transcripts=_transcripts(folder),
        config=html.escape(json.dumps(folder.config(), indent=1)),
    )
    path = folder.path / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def summary(folder: RunFolder) -> str:
    """The outcome in a few sentences."""
    metrics, evaluations = folder.rows("metrics.jsonl"), folder.rows("evaluations.jsonl")
    lines = [f"{len(metrics)} rollouts."]
    for kind in ("sampled", "greedy"):
        if len(evaluations) >= 2:
            before, after = evaluations[0][kind], evaluations[-1][kind]
            low, high = gain_interval(before, after)
            start, end = (100 * sum(x) / len(x) for x in (before, after))
            lines.append(
                f"Held-out accuracy, {kind}: {start:.1f} % → {end:.1f} %, gain {end - start:+.1f} points "
                f"(95 % interval {low:+.1f} to {high:+.1f}, {len(before)} prompts)."
            )
    if metrics:
        mean = {k: sum(r[k] for r in metrics) / len(metrics) for k in ("clip_fraction", "clip_low", "clip_high")}
        lines.append(
            f"Clip fraction {mean['clip_fraction']:.3f} on average (low {mean['clip_low']:.3f}, high {mean['clip_high']:.3f}), "
            f"largest |log s| {max(r['max_abs_log_s'] for r in metrics):.4f}, "
            f"{sum(r['skipped_steps'] for r in metrics)} optimizer steps skipped."
        )
    advised = [r for r in metrics if r.get("clip_range") is not None]
    if advised:
        predicted, measured = (sum(r[k] for r in advised) / len(advised) for k in ("predicted_clip_fraction", "clip_fraction"))
        low, high = advised[0]["clip_range"]
        lines.append(
            f"Clip fraction predicted {predicted:.3f}, measured {measured:.3f} on average over the {len(advised)} rollouts "
            f"after the pilot, with the range that it advised: {low:.4g} below, {high:.4g} above."
        )
    return "\n".join(lines + _engine(metrics))


def _engine(metrics: list[Row]) -> list[str]:
    """What the sampler and the routers did, if that was written down."""
    gaps = [(r["sampler_token_std"], r["sampler_ess"]) for r in metrics if "sampler_ess" in r]
    away = [sum(r["flips_engine"]) / len(r["flips_engine"]) for r in metrics if "flips_engine" in r]
    moved = [sum(r["flips_update"][-1]) / len(r["flips_update"][-1]) for r in metrics if "flips_update" in r]
    lines = []
    if gaps:
        spread, effective = (sum(column) / len(gaps) for column in zip(*gaps, strict=True))
        lines.append(f"Sampler to trainer: token log ratios spread by {spread:.4f}, effective sample size {effective:.3f}.")
    if away:
        lines.append(f"The trainer's routers would choose {sum(away) / len(away):.2%} of the sampler's experts otherwise.")
    if moved:
        lines.append(f"By the last mini-batch they would choose {sum(moved) / len(moved):.2%} of the old experts otherwise.")
    return lines


def gain_interval(before: list[float], after: list[float], *, draws: int = 4000) -> tuple[float, float]:
    """95 % interval of the gain in points: paired bootstrap over prompts (the responses to a prompt are not independent)."""
    gains = [100 * (b - a) for a, b in zip(before, after, strict=True)]
    generator = random.Random(0)
    means = sorted(sum(generator.choices(gains, k=len(gains))) / len(gains) for _ in range(draws))
    return means[int(0.025 * draws)], means[int(0.975 * draws)]


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
    edge = 3 * max(low, high, 1e-6)
    if values:
        heights, bins = np.histogram(np.clip(values, -edge, edge), bins=80, range=(-edge, edge))
        axes.stairs(heights, bins, color=BLUE, fill=True)
        plain_log(axes, "y", (1.0,))
        axes.set_ylim(0.5, 20 * float(heights.max()))  # room for the legend
    axes.axvspan(-low, high, color=RANGE, alpha=0.2, label=f"clip range −{low:.3g} … +{high:.3g}")
    title = "log s of responses with A ≠ 0 (end bins: and beyond)"
    finish(axes, title, "log s, nats per token", "responses", legend="upper right")


def _by_mini_batch(axes: Axes, metrics: list[Row]) -> None:
    count = max((len(r["by_mini_batch"]) for r in metrics), default=0)
    lines = (("log_s_rms", BLUE, "o-", "rms of log s"), ("clip_fraction", VERMILION, "s--", "clip fraction"))
    for key, color, look, label in lines:
        columns = [[r["by_mini_batch"][i][key] for r in metrics if i < len(r["by_mini_batch"])] for i in range(count)]
        axes.plot(range(1, count + 1), [sum(c) / len(c) for c in columns], look, color=color, label=label)
    finish(axes, "Distance from the sampling policy", "mini-batch of the rollout", "mean over rollouts")


def _room_for_legend(axes: Axes) -> None:
    """More height, so that a legend at the top covers no curve."""
    axes.set_ylim(top=1.45 * axes.get_ylim()[1])


def _transcripts(folder: RunFolder) -> str:
    files = sorted((folder.path / "transcripts").glob("*.json"))
    chosen = [files[0], files[-1]] if len(files) > 1 else files
    # "after-…" sorts before "before": show them in the order of time.
    return "".join(_table(file.stem, json.loads(file.read_text())) for file in reversed(chosen))


def _table(title: str, rows: list[dict[str, Any]]) -> str:
    body = ""
    for row in rows:
        scored = zip(row["scores"], row["texts"], strict=True)
        answers = "<br>".join(f"{score:.2f} &nbsp; {html.escape(text) or '<i>empty</i>'}" for score, text in scored)
        body += f"<tr><td>{html.escape(row['question'])}</td><td>{html.escape(str(row['answer']))}</td><td>{answers}</td></tr>"
    head = "<tr><th>question</th><th>solution</th><th>score, answer</th></tr>"
    return f"<h2>{html.escape(title)}</h2><table>{head}{body}</table>"


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #1a202c; }}
img {{ width: 100%; }} table {{ border-collapse: collapse; width: 100%; font-size: 13px; }}
td, th {{ border-top: 1px solid #e2e8f0; padding: 4px 8px; text-align: left; vertical-align: top; }}
pre {{ background: #f7fafc; padding: 1em; overflow: auto; }}
</style></head>
<body><h1>{title}</h1><p>{summary}</p><img alt="plots of the run" src="data:image/svg+xml;base64,{picture}">
{transcripts}<h2>configuration</h2><pre>{config}</pre></body></html>
"""
