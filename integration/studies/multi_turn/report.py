"""The multi-turn study as a table and a picture: means over seeds, differences to GSPO paired by seed, learning curves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gspo_plots.style import LEGEND, SERIES, finish, whole_numbers
from matplotlib.figure import Figure

from integration.options.errors import UserError
from integration.records.files import write_picture, write_whole

Row = dict[str, Any]
BASELINE = "gspo"
LOOKS = dict(zip(("gspo", "token", "token-to-go", "turn", "token-uniform"), SERIES, strict=False))
"""The look of each arm, in the order of tables and legends."""
DRAWS = 10_000


@dataclass(frozen=True)
class Cell:
    """The runs of one arm at one number of turns and one learning rate, by seed."""

    arm: str
    turns: int
    lr: float
    runs: dict[int, Row]
    """The result of each seed's run."""

    def final(self, kind: str, measure: str) -> dict[int, float]:
        """By seed, in %: "turns" or "success", "sampled" or "greedy", at the last evaluation."""
        return {seed: 100 * run["evaluations"][-1][kind][measure] for seed, run in self.runs.items()}

    def curve(self, kind: str, measure: str) -> tuple[list[int], np.ndarray]:
        """(rollouts [E], % [seeds, E])."""
        runs = [run["evaluations"] for run in self.runs.values()]
        return [row["rollout"] for row in runs[0]], np.array([[100 * row[kind][measure] for row in run] for run in runs])


def cells(rows: list[Row]) -> dict[tuple[int, float, str], Cell]:
    """Results by (turns, lr, arm)."""
    found: dict[tuple[int, float, str], Cell] = {}
    for row in rows:
        s = row["settings"]
        cell = found.setdefault((s["turns"], s["lr"], s["arm"]), Cell(s["arm"], s["turns"], s["lr"], {}))
        cell.runs[s["seed"]] = row["result"]
    return dict(sorted(found.items(), key=lambda item: (*item[0][:2], list(LOOKS).index(item[0][2]))))


def interval(values: list[float]) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean, over seeds."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (DRAWS, len(values)))
    low, high = np.quantile(drawn.mean(1), [0.025, 0.975])
    return float(low), float(high)


def differences(of: Cell, baseline: Cell, kind: str, measure: str) -> dict[int, float]:
    """By seed that both have: points above the baseline at the last evaluation."""
    ours, theirs = of.final(kind, measure), baseline.final(kind, measure)
    return {seed: ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}


def better_rate(rows: list[Row], turns: int, arm: str) -> Cell:
    """The arm's cell at the learning rate whose mean of sampled right turns is highest."""
    of_arm = [cell for cell in cells(rows).values() if (cell.turns, cell.arm) == (turns, arm)]
    return max(of_arm, key=lambda cell: np.mean(list(cell.final("sampled", "turns").values())))


def growth(rows: list[Row], arm: str, few: int, many: int, measure: str) -> list[float]:
    """By seed: how many points more the arm is above GSPO with `many` turns than with `few`, each at its better rate."""
    gains = [
        differences(better_rate(rows, turns, arm), better_rate(rows, turns, BASELINE), "sampled", measure)
        for turns in (few, many)
    ]
    return [gains[1][seed] - gains[0][seed] for seed in sorted(gains[0].keys() & gains[1].keys())]


def at_better_rates(rows: list[Row]) -> str:
    """Markdown: every arm and GSPO at their better rates, then the growth with the turns, then turn against token."""
    found = cells(rows)
    turns, arms = sorted({key[0] for key in found}), [arm for arm in LOOKS if any(key[2] == arm for key in found)]
    lines = [
        "| turns | arm | lr | right turns | against GSPO | whole dialogues | against GSPO |",
        "|---|---|---|---|---|---|---|",
    ]
    for number in turns:
        for arm in (arm for arm in arms if any(key[::2] == (number, arm) for key in found)):
            cell, entries = better_rate(rows, number, arm), []
            for measure in ("turns", "success"):
                against = {} if arm == BASELINE else differences(cell, better_rate(rows, number, BASELINE), "sampled", measure)
                entries += [f"{np.mean(list(cell.final('sampled', measure).values())):.1f} %", _points(list(against.values()))]
            lines.append(f"| {number} | {arm} | {cell.lr:g} | " + " | ".join(entries) + " |")
    lines.append("")
    if len(turns) > 1:
        for arm in (arm for arm in arms if arm != BASELINE):
            more = _points(growth(rows, arm, turns[0], turns[-1], "turns"))
            lines.append(f"- {arm} above GSPO, {turns[-1]} turns less {turns[0]}: {more} points")
    for number in turns if {"token", "turn"} <= set(arms) else ():
        apart = differences(better_rate(rows, number, "turn"), better_rate(rows, number, "token"), "sampled", "turns")
        lines.append(f"- turn less token, {number} turns: {_points(list(apart.values()))} points")
    return "\n".join(lines)


def table(rows: list[Row]) -> str:
    """Markdown; one line per cell."""
    head = "turns", "lr", "arm", "seeds", "right, before", "right, after", "against GSPO", "better", "all right", "against GSPO"
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    found = cells(rows)
    for (turns, lr, arm), cell in found.items():
        baseline = found.get((turns, lr, BASELINE))
        start = cell.curve("sampled", "turns")[1][:, 0].mean()
        entries = [str(turns), f"{lr:g}", arm, str(len(cell.runs)), f"{start:.1f} %"]
        for measure in ("turns", "success"):
            entries.append(f"{np.mean(list(cell.final('sampled', measure).values())):.1f} %")
            against = {} if baseline is None or arm == BASELINE else differences(cell, baseline, "sampled", measure)
            entries.append(_points(list(against.values())))
            if measure == "turns":
                entries.append(f"{sum(x > 0 for x in against.values())} of {len(against)}" if against else "")
        lines.append("| " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _points(values: list[float]) -> str:
    """Mean and interval."""
    if not values:
        return ""
    low, high = interval(values)
    return f"{np.mean(values):+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")


def write_report(rows: list[Row], folder: Path) -> str:
    """Write table.md and curves.png into the folder; returns the tables."""
    if not rows:
        raise UserError(f"--out: {folder} has no finished run to report")
    text = f"{at_better_rates(rows)}\n\nEvery cell:\n\n{table(rows)}"
    write_whole(folder / "table.md", text + "\n")
    write_picture(folder / "curves.png", _picture(rows), dpi=100)
    return text


def _picture(rows: list[Row]) -> Figure:
    """Right turns by rollout: one column per number of turns, one row per learning rate; means and 95 % intervals."""
    found = cells(rows)
    turns, lrs = sorted({key[0] for key in found}), sorted({key[1] for key in found})
    figure = Figure(figsize=(4.4 * len(turns) + 0.6, 4.0 * len(lrs) + 0.5), layout="constrained")
    panels = figure.subplots(len(lrs), len(turns), squeeze=False)
    for place, (lr, row) in enumerate(zip(lrs, panels, strict=True)):
        for number, ax in zip(turns, row, strict=True):
            for cell in (cell for key, cell in found.items() if key[:2] == (number, lr)):
                look = LOOKS[cell.arm]
                rollouts, values = cell.curve("sampled", "turns")
                low, high = np.array([interval(column.tolist()) for column in values.T]).T
                ax.fill_between(rollouts, low, high, color=look.color, alpha=0.12, lw=0)
                ax.plot(rollouts, values.mean(0), label=cell.arm, **look.line)
            left = "held-out turns right, %" if ax is row[0] else ""
            below = "rollout" if place == len(lrs) - 1 else ""
            finish(ax, f"{number} turns, learning rate {lr:g}", below, left, legend=None)
            whole_numbers(ax.xaxis)
    handles = {name: handle for ax in panels.flat for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), **LEGEND)
    return figure
