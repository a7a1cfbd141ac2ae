"""The warmed-up models that all runs of a seed start from: made once, in as many processes as the runs, and cached."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from integration.records.json_lines import Row
from integration.shared.model_cache import cached_model
from integration.shared.pretrained import load_model
from integration.studies.moe_training.arms import Job, job_of
from integration.studies.moe_training.reversal import warmed_up, with_plain_experts
from integration.studies.moe_training.run import run
from integration.studies.worker import Run

AFTER_WARM_UP = {"prompts", "group", "mini_batches", "rollouts", "lr_warm_up", "noise", "old_noise"}
"""Sizes that matter only once the model is there; all others are part of the cache's key."""


def starting_model(job: Job, cache: Path, device: str) -> Any:
    """The model that a job starts from, in evaluation mode on the device; warmed up if the cache does not have it."""
    sizes, dense, seed = job.study.sizes, job.arm.dense, job.seed
    recipe = {
        "sizes": {name: value for name, value in asdict(sizes).items() if name not in AFTER_WARM_UP},
        "dense": dense,
        "seed": seed,
        "device": device,
    }
    name = f"reversal-{'dense' if dense else 'moe'}-{seed}"
    folder = cached_model(cache, name, recipe, lambda: (warmed_up(sizes, dense, seed, device),))
    return with_plain_experts(load_model(str(folder)).to(device))


def models_of(jobs: list[Job]) -> list[Run]:
    """A run of `warm_up_once` for each model that these jobs start from."""
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(job.model, job)
    return [Run(name, job.settings) for name, job in first.items()]


def warm_up_once(cache: Path, device: str, settings: Row) -> Row:
    """Put one model into the cache."""
    model = starting_model(job_of(settings), cache, device)
    return {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def train_once(cache: Path, device: str, settings: Row) -> Row:
    """One run of the study."""
    job = job_of(settings)
    return run(job, starting_model(job, cache, device), device)
