"""Which losses train a small mixture of experts, and which break it: the runs of docs/studies/moe-training.md.

    python -m integration.studies.moe_training.study --out runs/a --jobs 16                             # one run per core
    python -m integration.studies.moe_training.study --out runs/b --start-from runs/a --time-limit 560  # continue from runs/a
    python -m integration.studies.moe_training.study --out runs/c --studies calibration                 # matches clip fractions
    python -m integration.studies.moe_training.study --out runs/d --device cuda --size large --only gspo-matched grpo-wide
    python -m integration.studies.moe_training.analysis runs/b                                          # tables and pictures

A Qwen3-MoE made from its config learns to reverse strings; docs/studies/moe-training.md has the questions and the criteria.
It is a toy of the mechanism. A run that was cut off is repeated; most take about a minute on a core.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from gspo_torch import record_routes, replay_routes

from integration.options.errors import UserError
from integration.options.ranges import JOBS, SECONDS, Range, check_values
from integration.records.json_lines import read_rows
from integration.studies.moe_training.arms import STUDIES, Job, jobs_of
from integration.studies.moe_training.models import models_of, train_once, warm_up_once
from integration.studies.moe_training.reversal import build, prompts
from integration.studies.runner import INTERRUPTED, Stage, command_line, run_stages
from integration.studies.worker import Run

RESULTS = "results.jsonl"


@dataclass(frozen=True)
class Command:
    """The runs to do, where, and for how long."""

    out: Path
    """Folder for results.jsonl. Runs that are in it are not repeated."""
    start_from: Path | None = None
    """A folder of an earlier command, whose results are taken over."""
    studies: tuple[Literal["main", "rescue", "calibration", "rescue-pilot"], ...] = ("main", "rescue")
    size: Literal["toy", "large"] = "toy"
    device: Literal["cpu", "cuda"] = "cpu"
    """On cuda the forward passes are in bfloat16."""
    jobs: int = 1
    """Processes, each with one thread."""
    time_limit: float | None = None
    """Seconds after which to stop; the same command then does the runs that are missing."""
    only: tuple[str, ...] = ()
    """Arms by name; default: all."""
    seeds: tuple[int, ...] = ()
    """Default: all of the study."""
    lrs: tuple[float, ...] = ()
    """Default: all of the study."""
    rollouts: int | None = None
    """Fewer than the study has, for a trial."""
    cache_dir: Path = Path("runs/cache")
    """Folder of warmed-up models."""

    def __post_init__(self) -> None:
        check_values(self, {"jobs": JOBS, "time_limit": SECONDS, "rollouts": Range(1, 10**6)})
        if not self.studies:
            raise UserError("--studies: expected at least one, got none")


def chosen(command: Command) -> list[Job]:
    """The runs that the options select. UserError for an arm, seed or learning rate that no study has."""
    prefix = "large-" if command.size == "large" else ""
    studies = [STUDIES[prefix + name] for name in dict.fromkeys(command.studies)]
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
    left = [
        job
        for job in jobs
        if (not command.only or job.arm.name in command.only)
        and (not command.seeds or job.seed in command.seeds)
        and (not command.lrs or job.lr in command.lrs)
    ]
    if not left:
        raise UserError("--only, --seeds, --lrs: no run of these studies has such an arm, seed and learning rate together")
    return left


@torch.no_grad()
def check_routers(job: Job) -> None:
    """UserError if the routers of this version of transformers cannot be recorded and replayed."""
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


def take_over(earlier: Path, out: Path) -> None:
    """Copy the results of an earlier folder, if `out` has none. UserError if the earlier folder has none either."""
    if not (earlier / RESULTS).exists():
        raise UserError(f"--start-from: expected a folder with {RESULTS}, got {earlier}")
    out.mkdir(parents=True, exist_ok=True)
    if not (out / RESULTS).exists():
        shutil.copyfile(earlier / RESULTS, out / RESULTS)


def main(command: Command) -> int:
    """Do the runs that are missing. Returns the exit status: 0, 130 after the time limit or Ctrl-C, 3 if a run failed."""
    began = time.monotonic()
    if command.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device")
    jobs = chosen(command)
    check_routers(jobs[0])
    if command.start_from is not None:
        take_over(command.start_from, command.out)
    size = sum(p.numel() for p in build(jobs[0].study.sizes, False, 0).parameters())
    print(f"{len(jobs)} runs of {', '.join(sorted({job.study.name for job in jobs}))}; {size:,} parameters", flush=True)
    worst = 0
    for study in dict.fromkeys(job.study.name for job in jobs):  # the first has the first claim on the time
        left = None if command.time_limit is None else max(command.time_limit - (time.monotonic() - began), 0.0)
        stages = stages_of([job for job in jobs if job.study.name == study], command)
        status = run_stages(stages, jobs=command.jobs, time_limit=left)
        worst = max(worst, status)
        if status == INTERRUPTED:
            break
    return worst


def stages_of(jobs: list[Job], command: Command) -> list[Stage]:
    """Of one study: the models that its missing runs start from, then the runs."""
    done = {row["name"] for row in read_rows(command.out / RESULTS)}
    models = models_of([job for job in jobs if job.key not in done])
    make, train = (partial(function, command.cache_dir, command.device) for function in (warm_up_once, train_once))
    runs = [Run(job.key, job.settings) for job in jobs]
    return [Stage(make, models, command.out / "models.jsonl"), Stage(train, runs, command.out / RESULTS)]


if __name__ == "__main__":
    command_line(main, Command, __doc__)
