"""The pictures of the LM-head benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

COLOURS = {
    "naive": "#999999",
    "linear_cross_entropy": "#c9b458",
    "liger": "#c0603f",
    "two_pass": "#5b9bd5",
    "aligned": "#1f4e8c",
    "floor": "#333333",
}


def draw(rows: list[dict[str, Any]], to: Path) -> None:
    """Time as a multiple of the floor, and memory beyond the gradients: one bar per implementation, shape and case."""
    figure, (times, memory) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for place, result in enumerate(rows):
        found = result["implementations"]
        names = [name for name in COLOURS if name in found and name != "floor"]
        width = 0.8 / max(1, len(names))
        for i, name in enumerate(names):
            at = place + (i - (len(names) - 1) / 2) * width
            label = name if place == 0 else None
            if "floor" in found:
                height = found[name]["cpu_s"]["min"] / found["floor"]["cpu_s"]["min"]
                times.bar(at, height, width, color=COLOURS[name], label=label)
                times.text(at, height, f"{height:.2f}", ha="center", va="bottom", fontsize=7)
            mib = found[name]["beyond_gradients_mib"]
            memory.bar(at, max(mib, 1), width, color=COLOURS[name])
            memory.text(at, max(mib, 1), f"{mib:.0f}", ha="center", va="bottom", fontsize=7)
    ticks = [f"{r['case']}\n{r['shape']}" for r in rows]
    for axis in (times, memory):
        axis.set_xticks(range(len(rows)), ticks, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    times.axhline(1, color=COLOURS["floor"], linewidth=0.8)
    times.set_title("CPU time / three bare matrix products on all rows", fontsize=10)
    times.legend(fontsize=8, frameon=False)
    memory.set_yscale("log")
    memory.set_title("peak memory beyond the gradients, MiB", fontsize=10)
    figure.savefig(to, dpi=110)
    plt.close(figure)


def draw_scaling(rows: list[dict[str, Any]], to: Path) -> None:
    """CPU time and memory against tokens and vocabulary."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    fields = (("cpu_s", "CPU time, s"), ("beyond_gradients_mib", "peak memory beyond the gradients, MiB"))
    for column, (along, label) in enumerate((("tokens", "tokens"), ("vocabulary", "vocabulary"))):
        mine = [row for row in rows if row["along"] == along]
        for line, (field, title) in enumerate(fields):
            axis = axes[line][column]
            for name, colour in COLOURS.items():
                points = sorted((row[along], max(row[field], 0.01)) for row in mine if row["implementation"] == name)
                if points:
                    axis.plot(*zip(*points, strict=True), "o-", color=colour, label=name, markersize=4)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log", base=2)
            axis.set_xlabel(label)
            axis.set_title(title, fontsize=10)
            axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(fontsize=8, frameon=False)
    figure.savefig(to, dpi=110)
    plt.close(figure)
