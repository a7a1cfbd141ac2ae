"""The pictures of the LM-head benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gspo_plots.style import BLACK, BLUE, GREEN, GREY, HATCHES, LEGEND, ORANGE, SKY, VERMILION, finish, plain_log
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LOOKS = {
    "naive": ("full logits", GREY, "o", "-"),
    "linear_cross_entropy": ("F.linear_cross_entropy", ORANGE, "D", ":"),
    "liger": ("Liger", VERMILION, "v", "-."),
    "two_pass": ("two-pass, budget_bytes=0", SKY, "s", "--"),
    "aligned": ("aligned", BLUE, "^", "-"),
    "floor": ("three bare matrix products", GREEN, "", "--"),
}
"""Name in the README, colour, marker and dash of each implementation."""
CASES = {"dense": "dense", "real": "real batch"}


def draw(rows: list[dict[str, Any]], to: Path) -> None:
    """Median time as a multiple of the floor's, and memory beyond the gradients; one bar per implementation, shape and case."""
    figure = Figure(figsize=(9, 0.95 * len(rows) + 1.6), layout="constrained")
    times, memory = figure.subplots(1, 2, sharey=True)
    names = [name for name in LOOKS if name != "floor" and any(name in row["implementations"] for row in rows)]
    height = 0.84 / len(names)
    for place, row in enumerate(rows):
        found = row["implementations"]
        for i, name in enumerate(name for name in names if name in found):
            at = place + (i - (len(names) - 1) / 2) * height
            floors = _in_floors(row, name)
            if floors is not None:
                _bar(times, at, floors, height, name, ".2f")
            _bar(memory, at, max(found[name]["beyond_gradients_mib"], 1.0), height, name, ".0f")
    for ax in (times, memory):
        ax.set_yticks(range(len(rows)), [_tick(row) for row in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
    plain_log(memory, "x", (1.0,))
    memory.set_xlim(1, 2 * memory.get_xlim()[1])  # room for the numbers
    times.set_xlim(right=1.1 * times.get_xlim()[1])
    times.axvline(1, color=LOOKS["floor"][1], linestyle="--", linewidth=1.2, label=LOOKS["floor"][0])
    finish(times, "CPU time", "median over rounds, relative to three bare matrix products on all rows", "", legend=None)
    finish(memory, "Peak memory beyond the gradients", "MiB", "", legend=None)
    handles = {label: handle for handle, label in zip(*times.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3, fontsize=9, **LEGEND)
    figure.savefig(to, dpi=110)


def _in_floors(row: dict[str, Any], name: str) -> float | None:
    """Time in floors as the README has it: a median over rounds, for those without one of their own by way of aligned's."""
    ratios = {pair: ratio["median"] for pair, ratio in row["cpu_ratios"].items()}
    if f"{name}/floor" in ratios:
        return float(ratios[f"{name}/floor"])
    if {"aligned/floor", f"aligned/{name}"} <= set(ratios):
        return float(ratios["aligned/floor"] / ratios[f"aligned/{name}"])
    return None


def _bar(ax: Axes, at: float, width: float, height: float, name: str, digits: str) -> None:
    """A horizontal bar with its number at the end."""
    label, color, _, _ = LOOKS[name]
    hatch = HATCHES[list(LOOKS).index(name)]
    ax.barh(at, width, 0.92 * height, color=color, hatch=hatch, edgecolor="white", linewidth=0, label=label)
    ax.annotate(
        format(width, digits),
        (width, at),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=7,
        color=BLACK,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )


def _tick(row: dict[str, Any]) -> str:
    tokens, hidden, vocabulary = row["shape"].split(",")
    return f"{CASES[row['case']]}\n{tokens} × {hidden} × {vocabulary}"


def draw_scaling(rows: list[dict[str, Any]], to: Path) -> None:
    """CPU time and memory against tokens and vocabulary."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    fields = (("cpu_s", "CPU time, s"), ("beyond_gradients_mib", "peak memory beyond the gradients, MiB"))
    for column, along in enumerate(("tokens", "vocabulary")):
        mine = [row for row in rows if row["along"] == along]
        for line, (field, title) in enumerate(fields):
            ax = axes[line][column]
            for name, (label, color, marker, dash) in LOOKS.items():
                points = sorted((row[along], max(row[field], 0.01)) for row in mine if row["implementation"] == name)
                if points:
                    ax.plot(*zip(*points, strict=True), marker=marker, ls=dash, color=color, label=label, markersize=5)
            plain_log(ax, "x")
            plain_log(ax, "y")
            ticks = sorted({row[along] for row in mine})
            ax.set_xticks(ticks, [f"{x // 1024}k" for x in ticks])
            ax.minorticks_off()
            left, below = title if column == 0 else "", along if line else ""
            finish(ax, "" if line else f"against {along}", below, left, legend="upper left" if line == column == 0 else None)
    figure.savefig(to, dpi=110)
