"""Tables and pictures of the training study, by the plan in docs/studies/moe-training.md.

    python -m integration.studies.moe_training.analysis runs/moe-training --out docs/results/moe-training

Writes tables.md, two pictures per study, and a copy of results.jsonl. Seeds with missing runs are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from integration.options.errors import UserError
from integration.records.files import write_whole
from integration.records.json_lines import read_rows
from integration.studies.moe_training.arms import CALIBRATION, CALIBRATION_BANDS
from integration.studies.moe_training.hypotheses import HYPOTHESES, decide
from integration.studies.moe_training.intervals import Grid, Row, bootstrap, largest_stable, wilson
from integration.studies.moe_training.pictures import write_pictures
from integration.studies.runner import command_line

RESULTS = "results.jsonl"
REFERENCE = "gspo-matched"
"""All arms are compared with it."""


@dataclass(frozen=True)
class Command:
    """The folder to read, and the folder to write."""

    runs: tyro.conf.Positional[Path]
    """The folder with results.jsonl."""
    out: Path | None = None
    """Default: the same folder."""


def load(folder: Path) -> list[Row]:
    """All finished runs. UserError if there are none."""
    rows = [line["result"] for line in read_rows(folder / RESULTS)]
    if not rows:
        raise UserError(
            f"{folder}: expected a {RESULTS} with finished runs; python -m integration.studies.moe_training.study makes one"
        )
    return rows


def outcome_table(grid: Grid) -> list[str]:
    """By arm: collapses at each rate, the largest stable rate, held-out reward at the arm's own best rate."""
    lines = [
        f"| arm | {' | '.join(f'collapsed at {lr:g}' for lr in grid.lrs)} | collapsed, all | largest stable rate | best rate "
        f"| held-out reward there | minus {REFERENCE} at its best |",
        "|---" * (len(grid.lrs) + 6) + "|",
    ]
    reference = grid.held_out(REFERENCE, grid.best_lr(REFERENCE))
    for arm in grid.arms:
        falls: dict[float, Sequence[bool]] = {lr: [not alive for alive in grid.survived(arm, lr)] for lr in grid.lrs}
        stable, best = largest_stable(falls), grid.best_lr(arm)
        reward = grid.held_out(arm, best)
        cells = [
            arm,
            *(_share(falls[lr]) for lr in grid.lrs),
            _share([fall for lr in grid.lrs for fall in falls[lr]]),
            "none" if stable is None else f"{stable:g}",
            f"{best:g}",
            str(bootstrap(reward.tolist())),
            "" if arm == REFERENCE else str(bootstrap((reward - reference).tolist())),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def diagnostics_table(grid: Grid, lr: float) -> list[str]:
    """By arm, at one rate: means over rollouts and seeds, and the largest |log s| of all."""
    lines = [
        "| arm | clip fraction | gradient norm | sd of token log ratios | sd of log s | largest abs log s "
        "| flips, engine to trainer, by layer | flips by a rollout's updates | skipped steps | seconds of responses |",
        "|---" * 10 + "|",
    ]
    for arm in grid.arms:
        runs = grid.runs(arm, lr)

        def mean(name: str, runs: list[Row] = runs) -> float:
            return float(np.mean([row["curves"][name] for row in runs]))

        cells = [
            arm,
            f"{mean('clip_fraction'):.3f}",
            f"{mean('grad_norm'):.3g}",
            f"{mean('sd_token'):.3f}",
            f"{mean('sd_log_s'):.4f}",
            f"{max(max(row['curves']['log_s_max']) for row in runs):.3g}",
            _layers(runs, "flips_engine"),
            _layers(runs, "flips_updates"),
            str(sum(sum(row["curves"]["skipped"]) for row in runs)),
            f"{np.mean([row['seconds']['responses'] for row in runs]):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def verdict_table(grids: dict[str, Grid]) -> list[str]:
    """One line per hypothesis whose study has run."""
    lines = ["| | claim | measure | difference (95 %) | seeds better, worse | verdict |", "|---|---|---|---|---|---|"]
    for hypothesis in HYPOTHESES:
        if hypothesis.study in grids:
            verdict = decide(hypothesis, grids[hypothesis.study])
            compared = f"{hypothesis.measure.value}, {hypothesis.arm} − {hypothesis.other}"
            margin = "" if hypothesis.margin is None else f"; same within ±{hypothesis.margin:g}"
            lines.append(
                f"| {hypothesis.name} | {hypothesis.claim} | {compared}{margin} | {verdict.difference} "
                f"| {verdict.signs[0]}, {verdict.signs[1]} | {verdict.word} |"
            )
    return lines


def matched_band(grid: Grid) -> tuple[float, float]:
    """(GSPO's mean clip fraction, the upper width at which GRPO's equals it, interpolated in the logarithm of the width)."""
    lr = grid.lrs[0]

    def clipped(arm: str) -> float:
        return float(np.mean([row["curves"]["clip_fraction"] for row in grid.runs(arm, lr)]))

    target = clipped(REFERENCE)
    fractions = np.array([clipped(f"grpo-{high:g}") for high in CALIBRATION_BANDS])
    order = np.argsort(fractions)
    if not fractions.min() <= target <= fractions.max():
        raise UserError(
            f"calibration: expected bands around GSPO's clip fraction {target:.3f}, got {fractions.round(3).tolist()}"
        )
    return target, float(np.exp(np.interp(target, fractions[order], np.log(CALIBRATION_BANDS)[order])))


def page(rows: list[Row]) -> str:
    """All tables, as markdown."""
    grids = {name: Grid(rows, name) for name in dict.fromkeys(row["study"] for row in rows)}
    lines = ["## Hypotheses", "", *verdict_table(grids), ""]
    for name, grid in grids.items():
        middle = grid.lrs[len(grid.lrs) // 2]
        seeds = f"seeds {', '.join(map(str, grid.seeds))}; {grid.left_out} runs of seeds that are not whole are left out"
        lines += [
            f"## {name}: {seeds}",
            "",
            *outcome_table(grid),
            "",
            f"At {middle:g}:",
            "",
            *diagnostics_table(grid, middle),
            "",
        ]
        if name == CALIBRATION.name:
            target, high = matched_band(grid)
            lines += [f"GSPO's clip fraction {target:.3f}; GRPO has it with {0.75 * high:.4f}, {high:.4f}.", ""]
    return "\n".join(lines)


def _share(falls: Sequence[bool]) -> str:
    _, low, high = wilson(sum(falls), len(falls))
    return f"{sum(falls)}/{len(falls)} ({low:.2f} to {high:.2f})"


def _layers(runs: list[Row], name: str) -> str:
    flips = [rollout for row in runs for rollout in row["curves"][name] if rollout]
    return ", ".join(f"{x:.2f}" for x in np.mean(flips, axis=0)) if flips else ""


def main(command: Command) -> int:
    """Print the tables, and write them with the pictures."""
    rows, out = load(command.runs), command.out or command.runs
    text = page(rows)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "tables.md", text)
    if out.resolve() != command.runs.resolve():
        write_whole(out / RESULTS, (command.runs / RESULTS).read_bytes())
    write_pictures(rows, out)
    print(text)
    return 0


if __name__ == "__main__":
    command_line(main, Command, __doc__)
