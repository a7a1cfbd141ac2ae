"""Trainers on meshes of host devices, for training_on_meshes.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.runs.jax_trainers import make_trainer, words

from integration.on_jax.trainer import Trainer
from integration.parity.reference import START
from integration.shared.pretrained import load_tokenizer

MESHES = [(1, 2), (2, 2), (3, 1), (2, 4)]
"""Data × model. Three devices: sixteen rows are filled up to eighteen."""
EXACT = 1e-12
TASK = words()
TOKENIZER = load_tokenizer(str(START))


def name_of(mesh: tuple[int, int]) -> str:
    """As claims have it."""
    return f"{mesh[0]} × {mesh[1]}"


def trainer_on(mesh: tuple[int, int], folder: Path, weights: Path = START, **options: Any) -> Trainer:
    """A trainer of the parity run's model, or of another."""
    saved = None, TOKENIZER, weights
    return make_trainer(TASK, saved, folder, data_parallel=mesh[0], model_parallel=mesh[1], **options)
