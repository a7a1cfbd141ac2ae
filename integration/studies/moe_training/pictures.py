"""Pictures of the training study: reward by rollout, and held-out reward by arm and learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gspo_plots.style import BLACK, BLUE, SERIES, finish, whole_numbers
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from integration.records.files import write_picture
from integration.studies.moe_training.intervals import Grid, Row, bootstrap

FAMILIES = ("grpo", "gspo")
"""Arms whose names begin with one of these share a row of panels; all others share the last row."""
HEIGHT = 3.4
"""Inches per row of panels."""


def write_pictures(rows: list[Row], out: Path) -> None:
    """For each study curves-<study>.png and held-out-<study>.png."""
    for name in dict.fromkeys(row["study"] for row in rows):
        grid = Grid(rows, name)
        write_picture(out / f"curves-{name}.png", _curves(grid), dpi=110)
        write_picture(out / f"held-out-{name}.png", _held_out(grid), dpi=110)


def _families(grid: Grid) -> list[tuple[str, list[str]]]:
    """(title, arms) of each row of panels."""
    found = [(family.upper(), [arm for arm in grid.arms if arm.startswith(family)]) for family in FAMILIES]
    rest = [arm for arm in grid.arms if not arm.startswith(FAMILIES)]
    return [(title, arms) for title, arms in (*found, ("controls", rest)) if arms]


def _curves(grid: Grid) -> Figure:
    """Reward by rollout: one row of panels per family of arms, one column per learning rate; means and 95 % intervals."""
    families = _families(grid)
    size = (4.2 * len(grid.lrs) + 2.2, HEIGHT * len(families) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(families), len(grid.lrs), sharex=True, sharey=True, squeeze=False)
    for place, ((family, arms), row) in enumerate(zip(families, panels, strict=True)):
        for lr, ax in zip(grid.lrs, row, strict=True):
            for arm, look in zip(arms, SERIES, strict=False):
                _curve(ax, np.array([run["curves"]["reward"] for run in grid.runs(arm, lr)]), arm, look.line)
            below = "rollout" if place == len(families) - 1 else ""
            left = f"reward, {len(grid.seeds)} seeds" if ax is row[0] else ""
            finish(ax, f"{family}, learning rate {lr:g}", below, left, legend=None)
            whole_numbers(ax.xaxis)
        row[-1].legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=3.0)
    return figure


def _curve(ax: Axes, rewards: np.ndarray, arm: str, line: dict[str, Any]) -> None:
    """The mean over seeds, with its 95 % bootstrap interval as a band."""
    low, high = np.array([bootstrap(column.tolist())[1:] for column in rewards.T]).T
    rollouts = np.arange(rewards.shape[1])
    ax.plot(rollouts, rewards.mean(0), label=arm, markevery=5, **line)
    ax.fill_between(rollouts, low, high, color=line["color"], alpha=0.12, lw=0)


def _held_out(grid: Grid) -> Figure:
    """Held-out reward after training: every seed, the mean, and its 95 % bootstrap interval."""
    figure = Figure(figsize=(4.2 * len(grid.lrs) + 1.6, 0.3 * len(grid.arms) + 1.4), layout="constrained")
    for ax, lr in zip(figure.subplots(1, len(grid.lrs), sharey=True, squeeze=False)[0], grid.lrs, strict=True):
        for place, arm in enumerate(reversed(grid.arms)):
            values = grid.held_out(arm, lr)
            mean, low, high = bootstrap(values.tolist())
            ax.plot([low, high], [place, place], color=BLACK, linewidth=1.5)
            ax.plot(values, [place] * len(values), "o", color=BLUE, alpha=0.4, markersize=4)
            ax.plot(mean, place, "|", color=BLACK, markersize=10)
        ax.set_yticks(range(len(grid.arms)), list(reversed(grid.arms)))
        finish(ax, f"learning rate {lr:g}", "held-out reward", "", legend=None)
    figure.suptitle("Seeds (dots), mean and 95 % bootstrap interval (bar)", fontsize=10)
    return figure
