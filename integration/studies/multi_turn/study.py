"""GSPO with one advantage per response against GSPO-token with one per turn, on dialogues of 2, 4 and 8 turns.

    python -m integration.studies.multi_turn.study --jobs 16 --time-limit 540 --out runs/multi-turn   # run it again to continue
    python -m integration.studies.multi_turn.study --report-only --out docs/results/multi-turn        # table and picture

A small policy (model.py) has dialogues with a register machine (register_machine.py) that judges every turn. All runs of a
seed start from the same weights and see the same episodes in the same order. docs/studies/multi-turn.md has the
hypotheses, which were written before the runs, and the results.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from integration.options.errors import UserError
from integration.options.ranges import JOBS, SECONDS, Range, check_values
from integration.records.json_lines import read_rows
from integration.studies.multi_turn.arms import ARMS
from integration.studies.multi_turn.model import WarmUp, load_policy
from integration.studies.multi_turn.report import write_report
from integration.studies.multi_turn.training import Training
from integration.studies.runner import Stage, command_line, run_stages
from integration.studies.worker import Run


@dataclass(frozen=True)
class Study:
    """The runs to do, where, and for how long."""

    out: Path = Path("runs/multi-turn")
    """Folder for results.jsonl, the table and the picture; an existing results.jsonl is continued."""
    jobs: int = 1
    """Processes, of one thread each."""
    time_limit: float | None = None
    """Seconds after which to stop; the same command then does the runs that are missing."""
    arms: tuple[str, ...] = ("gspo", "token", "token-to-go", "turn")
    turns: tuple[int, ...] = (2, 4, 8)
    lrs: tuple[float, ...] = (1e-4, 2e-4)
    seeds: int = 6
    first_seed: int = 0
    rollouts: int = 100
    target: float = 0.5
    """Share of right turns at which a seed's warm-up stops."""
    device: Literal["cpu", "cuda"] = "cpu"
    cache_dir: Path = Path("runs/cache")
    """Folder of warmed-up models."""
    report_only: bool = False
    """Run nothing: write table and picture of the results in the folder."""

    def __post_init__(self) -> None:
        check_values(self, RANGES)
        unknown = sorted(set(self.arms) - set(ARMS))
        if unknown or not self.arms:
            raise UserError(f"--arms: expected some of {', '.join(ARMS)}, got {', '.join(unknown) or 'none'}")


RANGES = {
    "jobs": JOBS,
    "time_limit": SECONDS,
    "turns": Range(1, 64),
    "lrs": Range(0, 1, open_above=True),
    "seeds": Range(1, 10**6),
    "first_seed": Range(0, 2**31 - 1),
    "rollouts": Range(1, 10**6),
    "target": Range(0, 1),
}
"""Legal values of the study's options."""


def one_run(settings: dict[str, Any], *, cache: Path) -> dict[str, Any]:
    """Train once, from settings as `runs_of` makes them. Returns evaluations, rewards, the clip range and its clip fraction."""
    model = load_policy(WarmUp(settings["seed"], settings["target"]), cache, torch.device(settings["device"]))
    arm = ARMS[settings["arm"]]
    return Training(model, arm, settings["turns"], settings["lr"], settings["seed"]).run(settings["rollouts"])


def make_policy(settings: dict[str, Any], *, cache: Path) -> dict[str, Any]:
    """Warm a seed's model up, for all its runs."""
    model = load_policy(WarmUp(settings["seed"], settings["target"]), cache, torch.device("cpu"))
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def seeds_of(study: Study) -> range:
    """The study's seeds."""
    return range(study.first_seed, study.first_seed + study.seeds)


def runs_of(study: Study) -> list[Run]:
    """Seed by seed, so that what a time limit leaves is whole seeds; long dialogues first."""
    shared = {"target": study.target, "device": study.device}
    return [
        Run(
            f"{arm}-turns-{turns}-lr-{lr:g}-seed-{seed}",
            {"arm": arm, "turns": turns, "lr": lr, "seed": seed, "rollouts": study.rollouts, **shared},
        )
        for seed in seeds_of(study)
        for turns in sorted(study.turns, reverse=True)
        for lr in study.lrs
        for arm in study.arms
    ]


def main(study: Study) -> int:
    """Warm up, train, report. Returns the exit status."""
    if study.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device")
    results, status = study.out / "results.jsonl", 0
    if not study.report_only:
        make, train = partial(make_policy, cache=study.cache_dir), partial(one_run, cache=study.cache_dir)
        policies = [Run(f"policy-{seed}", {"seed": seed, "target": study.target}) for seed in seeds_of(study)]
        stages = [Stage(make, policies, study.out / "policies.jsonl"), Stage(train, runs_of(study), results)]
        status = run_stages(stages, jobs=study.jobs, time_limit=study.time_limit)
    print(write_report(read_rows(results), study.out))
    return status


if __name__ == "__main__":
    command_line(main, Study, __doc__)
