"""Trainers on one small random model, for every test of the JAX script's parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runs.jax_trainers import make_trainer, promotion, save_model, words

from integration.on_jax.trainer import Trainer
from integration.tasks.task import Task


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """Outside the suite's strict promotion, as in the script's own process."""
    with promotion():
        yield


@pytest.fixture(scope="session")
def task() -> Task:
    """What is asked."""
    return words()


@pytest.fixture(scope="session")
def saved(task: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """The model that trainers start from."""
    return save_model(task, tmp_path_factory.mktemp("model"))


@pytest.fixture
def trainer(task: Task, saved: tuple[Any, Any, Path], tmp_path: Path) -> Trainer:
    """A fresh trainer."""
    return make_trainer(task, saved, tmp_path)
