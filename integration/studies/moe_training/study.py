"""Which losses train a small mixture of experts, and which break it: the runs of docs/studies/moe-training.md.

    python -m integration.studies.moe_training.study --out runs/a --jobs 16  everything, one run per core
    python -m integration.studies.moe_training.study --out runs/b --start-from runs/a --time-limit 560  go on from runs/a
    python -m integration.studies.moe_training.study --out runs/c --studies calibration  what matched the clip fractions
    python -m integration.studies.moe_training.study --out runs/d --device cuda --size large --only gspo-matched grpo-wide
    python -m integration.studies.moe_training.analysis runs/b  tables and pictures

A Qwen3-MoE made from its config learns to reverse strings; docs/studies/moe-training.md has the questions and the criteria.
It is a toy of the mechanism. A run that was cut off is repeated: it takes less than two minutes on a core.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import tyro
from gspo_torch import record_routes, replay_routes

from integration.shared.errors import UserError
from integration.studies.moe_training.arms import STUDIES, Job, jobs_of
from integration.studies.moe_training.models import models_file, prepare, train_once
from integration.studies.moe_training.reversal import build, prompts
from integration.studies.runner import Run, read_results, run_study

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Command:
    """What to run, where, and for how long."""

    out: Path
    """Gets results.jsonl and models-*.pt. What is there is not repeated."""
    start_from: Path | None = None
    """A folder of an earlier command: its results and models are taken over."""
    studies: tuple[Literal["main", "rescue", "calibration", "rescue-pilot"], ...] = ("main", "rescue")
    size: Literal["toy", "large"] = "toy"
    device: Literal["cpu", "cuda"] = "cpu"
    """On cuda the forward passes are in bfloat16."""
    jobs: int = 1
    """Processes, each with one thread."""
    time_limit: float | None = None
    """Seconds until it stops, with what is finished written down."""
    only: tuple[str, ...] = ()
    """Arms by name; default: all."""
    seeds: tuple[int, ...] = ()
    """Default: all of the study."""
    lrs: tuple[float, ...] = ()
    """Default: all of the study."""
    rollouts: int | None = None
    """Fewer than the study has, for a trial."""


def chosen(command: Command) -> list[Job]:
    """The runs that are asked for. UserError for an arm, seed or rate that no study has."""
    prefix = "large-" if command.size == "large" else ""
    studies = [STUDIES[prefix + name] for name in command.studies]
    if command.rollouts is not None:
        studies = [replace(s, sizes=replace(s.sizes, rollouts=command.rollouts)) for s in studies]
    jobs = jobs_of(studies)
    for option, values, has in (
        ("only", command.only, sorted({job.arm.name for job in jobs})),
        ("seeds", command.seeds, sorted({job.seed for job in jobs})),
        ("lrs", command.lrs, sorted({job.lr for job in jobs})),
    ):
        strange = [value for value in values if value not in has]
        if strange:
            raise UserError(f"--{option}: expected some of {', '.join(map(str, has))}, got {strange[0]}")
    return [
        job
        for job in jobs
        if (not command.only or job.arm.name in command.only)
        and (not command.seeds or job.seed in command.seeds)
        and (not command.lrs or job.lr in command.lrs)
    ]


@torch.no_grad()
def check_routers(job: Job) -> None:
    """That this version of transformers has routers that can be recorded and replayed; UserError says what it has."""
    sizes = job.study.sizes
    model = build(replace(sizes, layers=2), False, 0)
    ids = prompts(sizes, 2, torch.Generator().manual_seed(0))
    try:
        with record_routes(model) as routes:
            free = model(ids, use_cache=False).logits
        with replay_routes(model, routes):
            replayed = model(ids, use_cache=False).logits
    except (TypeError, IndexError, ValueError) as error:
        raise UserError(f"transformers: expected routers that return (logits, gate values, experts): {error}") from error
    if not torch.equal(free, replayed):
        raise UserError("transformers: replaying a model's own routes changes its logits in this version")


def take_over(earlier: Path, out: Path, jobs: list[Job]) -> None:
    """Copies results and models of an earlier folder that `out` does not have. UserError if it has none."""
    names = [RESULTS, *sorted({models_file(out, job.study.name).name for job in jobs})]
    there = [name for name in names if (earlier / name).exists()]
    if not there:
        raise UserError(f"--start-from: expected a folder with one of {', '.join(names)}, got {earlier}")
    out.mkdir(parents=True, exist_ok=True)
    for name in there:
        if not (out / name).exists():
            shutil.copyfile(earlier / name, out / name)


def main(command: Command) -> int:
    """Runs what is missing. Returns the exit status: 0, 130 if time ran out or Ctrl-C came, 3 if a run failed."""
    began = time.monotonic()
    if command.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this PyTorch sees no CUDA device")
    jobs = chosen(command)
    check_routers(jobs[0])
    if command.start_from is not None:
        take_over(command.start_from, command.out, jobs)
    size = sum(p.numel() for p in build(jobs[0].study.sizes, False, 0).parameters())
    print(f"{len(jobs)} runs of {', '.join(sorted({job.study.name for job in jobs}))}; {size:,} parameters", flush=True)
    worst = 0
    for study in dict.fromkeys(job.study.name for job in jobs):  # the first has the first claim on the time
        left = None if command.time_limit is None else max(command.time_limit - (time.monotonic() - began), 0.0)
        status = run_one([job for job in jobs if job.study.name == study], command, left)
        worst = max(worst, status)
        if status == 130:
            break
    return worst


def run_one(jobs: list[Job], command: Command, seconds: float | None) -> int:
    """One study: what is missing of its models, then of its runs. Returns the exit status."""
    began = time.monotonic()
    done = {row["name"] for row in read_results(command.out / RESULTS)}
    if not prepare([job for job in jobs if job.key not in done], command.out, command.jobs, command.device, seconds):
        print("not all models are warmed up; the same command goes on")
        return 130
    left = None if seconds is None else max(seconds - (time.monotonic() - began), 0.0)
    train = partial(train_once, command.out, command.device)
    runs = [Run(job.key, job.settings) for job in jobs]
    return run_study(train, runs, command.out / RESULTS, jobs=command.jobs, time_limit=left).status


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Command, description=__doc__)))
    except UserError as error:
        sys.exit(f"{error}")
