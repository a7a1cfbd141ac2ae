"""The command line shows options in groups; their names, texts and values are those of `Config`."""

from __future__ import annotations

import dataclasses
import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from integration.options.config import Config, f_default
from integration.options.groups import FIRST, from_command_line, grouped
from integration.options.sizes import WarmUp


def test_every_option_is_in_one_group_and_every_group_has_some() -> None:
    there = [field.name for fields in grouped().values() for field in fields]
    assert sorted([*there, "experts", "warm_up"]) == sorted(f.name for f in dataclasses.fields(Config))
    assert [name for name, _ in FIRST.values()] == list(grouped())
    assert all(fields[0].name in FIRST for fields in grouped().values())
    assert [name for name in there if name in FIRST] == list(FIRST)
    inside = [f.name for f in dataclasses.fields(Config) if f.name not in {"experts", "warm_up"}]
    assert there == inside, "groups are cut out of the order of `Config`"


def test_help_has_a_box_for_each_group_and_the_text_of_each_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train_torch.py", "--help"])
    printed = io.StringIO()
    with redirect_stdout(printed), pytest.raises(SystemExit):
        from_command_line("Train.")
    said = " ".join(printed.getvalue().replace("│", " ").split())
    assert all(f"{name} options" in said for name in grouped())
    for field in dataclasses.fields(Config):
        inner = "." if dataclasses.is_dataclass(f_default(field)) else " "
        assert f"--{field.name.replace('_', '-')}{inner}" in said.replace(",", " "), field.name
    assert "Of `--model small` and `small-moe` only. Supervised steps before RL, and the model's size." in said
    texts = {
        "--lr-warm-up": "Optimizer steps over which the learning rate rises from 0: Adam's first steps are the largest",
        "--verifier-seconds": "Processor time that judging one answer may take; it then scores 0.",
        "--warm-up.target": "Sampled accuracy on training questions at which to stop.",
        "--group-size": "G: responses per prompt.",
    }
    for option, text in texts.items():
        assert text in said.partition(f" {option} ")[2][: len(text) + 60], option


def test_what_is_left_out_is_the_default_or_as_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train_torch.py"])
    assert from_command_line("Train.") == Config()
    saved = Config(model="small", lr=0.5, task_args=("a=1",), warm_up=WarmUp(hidden=32), run_dir=Path("x"))
    assert from_command_line("Train.", saved) == saved
    monkeypatch.setattr(
        sys, "argv", ["train_torch.py", "--rollouts", "7", "--warm-up.layers", "2", "--task-args", "b=2", "c=3"]
    )
    changed = dataclasses.replace(saved, rollouts=7, task_args=("b=2", "c=3"), warm_up=WarmUp(hidden=32, layers=2))
    assert from_command_line("Train.", saved) == changed
