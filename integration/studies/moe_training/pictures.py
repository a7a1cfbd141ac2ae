"""Pictures of the training study: reward by rollout, and held-out reward by arm and learning rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from integration.studies.moe_training.intervals import Grid, Row, bootstrap


def write_pictures(rows: list[Row], out: Path) -> None:
    """For each study curves-<study>.png and held-out-<study>.png."""
    for name in dict.fromkeys(row["study"] for row in rows):
        grid = Grid(rows, name)
        for kind, draw in (("curves", _curves), ("held-out", _held_out)):
            figure = Figure(figsize=(4.2 * len(grid.lrs) + 1.6, 4.6), layout="constrained")
            axes = figure.subplots(1, len(grid.lrs), sharey=True, squeeze=False)[0]
            for ax, lr in zip(axes, grid.lrs, strict=True):
                draw(ax, grid, lr)
                ax.set_title(f"learning rate {lr:g}")
            if kind == "curves":
                handles, labels = axes[0].get_legend_handles_labels()
                figure.legend(handles=handles, labels=labels, loc="outside right upper", fontsize=8)
            figure.savefig(out / f"{kind}-{name}.png", dpi=110)


def _curves(ax: Axes, grid: Grid, lr: float) -> None:
    colours = colormaps["tab20"].colors  # type: ignore[attr-defined]
    for index, arm in enumerate(grid.arms):
        curves = np.array([row["curves"]["reward"] for row in grid.runs(arm, lr)])
        ax.plot(curves.mean(0), label=arm, color=colours[index % len(colours)], linestyle="--" if "dense" in arm else "-")
    ax.set_xlabel("rollout")
    ax.set_ylabel(f"reward, mean of {len(grid.seeds)} seeds")


def _held_out(ax: Axes, grid: Grid, lr: float) -> None:
    for place, arm in enumerate(reversed(grid.arms)):
        values = grid.held_out(arm, lr)
        mean, low, high = bootstrap(values.tolist())
        ax.plot([low, high], [place, place], color="black", linewidth=1.5)
        ax.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.4, markersize=4)
        ax.plot(mean, place, "|", color="black", markersize=10)
    ax.set_yticks(range(len(grid.arms)), list(reversed(grid.arms)))
    ax.set_xlabel("held-out reward; seeds, mean, 95 % bootstrap interval")
