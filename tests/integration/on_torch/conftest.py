"""Trainers on one small random model, for every test of the PyTorch script's parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.runs.in_process import in_process
from support.runs.torch_trainers import make_trainer

from integration.on_torch.trainer import Trainer
from integration.tasks.task import Task, load_task


@pytest.fixture(scope="session")
def task() -> Task:
    """Short words backward: prompts and answers of different lengths."""
    return in_process(
        load_task("spell_backward", ["min_word_len=2", "max_word_len=6"], seed=2, train_size=40, held_out_size=10)
    )


@pytest.fixture
def trainer(task: Task, tmp_path: Path) -> Trainer:
    """A fresh trainer."""
    return make_trainer(task, tmp_path)
