"""The warmed-up models that all runs of a seed start from: made once, in as many processes as the runs, one file per study."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch

from integration.studies.moe_training.arms import Job, job_of
from integration.studies.moe_training.reversal import warmed_up
from integration.studies.moe_training.run import run
from integration.studies.runner import Row, Run, run_study

PARTS, LINES = "models", "models.jsonl"
Weights = dict[str, Any]


def models_file(folder: Path, study: str) -> Path:
    """Where a study's models are: weights by `Job.model`."""
    return folder / f"models-{study}.pt"


def prepare(jobs: list[Job], folder: Path, processes: int, device: str, seconds: float | None) -> bool:
    """Warms up what `folder` lacks. Whether every job has its model now."""
    folder.mkdir(parents=True, exist_ok=True)
    _collect(folder)  # of an earlier call that was cut off
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(job.model, job)
    missing = [Run(name, job.settings) for name, job in first.items() if name not in _names(folder, jobs)]
    if missing:
        print(f"warm-up: {len(missing)} models", flush=True)
        lines = folder / LINES
        lines.unlink(missing_ok=True)  # a model is done when its weights are there, whatever the line says
        run_study(partial(warm_up_once, folder, device), missing, lines, jobs=processes, time_limit=seconds)
        _collect(folder)
    return first.keys() <= _names(folder, jobs)


def warm_up_once(folder: Path, device: str, settings: Row) -> Row:
    """One model, in a process of its own."""
    job = job_of(settings)
    weights, steps, reward = warmed_up(job.study.sizes, job.arm.dense, job.seed, device)
    part = folder / PARTS / f"{os.getpid()}.part"
    part.parent.mkdir(exist_ok=True)
    torch.save({job.model: weights}, part)
    os.replace(part, folder / PARTS / _file(job.model))
    return {"steps": steps, "reward": reward}


def train_once(folder: Path, device: str, settings: Row) -> Row:
    """One run, in a process of its own."""
    job = job_of(settings)
    return run(job, _load(models_file(folder, job.study.name))[job.model], device)


def _file(model: str) -> str:
    return model.replace("/", "-") + ".pt"


def _load(path: Path) -> dict[str, Weights]:
    models: dict[str, Weights] = torch.load(path, weights_only=True) if path.exists() else {}
    return models


def _names(folder: Path, jobs: list[Job]) -> set[str]:
    return {name for study in {job.study.name for job in jobs} for name in _load(models_file(folder, study))}


def _collect(folder: Path) -> None:
    """Single models into their study's file."""
    for part in sorted((folder / PARTS).glob("*.pt")):
        new: dict[str, Weights] = torch.load(part, weights_only=True)
        for name in new:
            target = models_file(folder, name.split("/")[0])
            whole = target.with_suffix(".part")
            torch.save(_load(target) | new, whole)
            os.replace(whole, target)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
