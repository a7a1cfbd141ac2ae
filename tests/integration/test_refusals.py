"""What the training scripts refuse before anything is trained: exit status 2, one clear sentence, and no run folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.runs.scripts import PRETRAINED, TINY, refusal


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--task", "count_bitz"], "no task 'count_bitz'; did you mean count_bits"),
        (["--task-args", "nonsense=1"], "--task-args: count_bits does not accept nonsense=1"),
        (["--task-args", "max_n"], "--task-args: expected key=value, got 'max_n'"),
        (["--objective", "ppo"], "ppo"),
        (["--clip-low", "1.5"], "--clip-low: expected a clip width in [0, 1), got 1.5"),
        (["--mini-batches", "5"], "--mini-batches: 16 responses cannot be cut into 5 equal mini-batches"),
        (["--group-size", "1"], "--group-size: expected at least 2"),
        (["--model", "/nowhere/model"], "--model"),
        (["--eval-prompts", "60", "--train-size", "400"], "--task: count_bits has only"),
        (["--data-parallel", "2"], "--data-parallel: is of the JAX script, which has one process for all devices"),
        (["--model-parallel", "0"], "--model-parallel: expected at least 1, got 0"),
        (["--resume", "/nowhere/run"], "--resume: /nowhere/run is not the folder of a run"),
    ],
)
def test_bad_input_gets_one_clear_sentence(tmp_path: Path, options: list[str], sentence: str) -> None:
    arguments = PRETRAINED if options[0] == "--model" else TINY
    said = refusal(tmp_path / "cache", *arguments, *options, "--run-dir", str(tmp_path / "bad"))
    assert sentence in said
    assert not (tmp_path / "bad").exists()
