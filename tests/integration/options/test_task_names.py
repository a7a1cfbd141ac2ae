"""A name is known, or refused with its neighbours, before reasoning-gym is imported."""

from __future__ import annotations

from pathlib import Path

import pytest
from reasoning_gym.factory import DATASETS

from integration.options.config import Config
from integration.options.errors import UserError
from integration.options.task_names import written_names


def test_the_names_in_its_files_are_those_that_it_registers() -> None:
    """If a new version writes them in another way, there are none, and its own registry decides."""
    assert written_names() == set(DATASETS)


def test_a_slip_of_the_pen_is_refused_with_the_options(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--task: reasoning-gym has no task 'chain_sun'; did you mean chain_sum"):
        Config(task="chain_sun")
    with pytest.raises(UserError, match=f"^--model: there is no {tmp_path}/nowhere; name a folder"):
        Config(model=f"{tmp_path}/nowhere")
    Config(model=str(tmp_path))
    Config(model="Qwen/Qwen3-0.6B")


def test_without_reasoning_gym_nothing_is_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integration.options.task_names.find_spec", lambda _: None)
    assert written_names() == set()
    Config(task="anything")
