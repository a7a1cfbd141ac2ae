"""The command line answers before any framework is imported, and ends with one sentence and a status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.runs.scripts import environment

from integration.options.command_line import command_line
from integration.options.config import Config
from integration.options.errors import TrainingFailure, UserError

LATE = (
    *("numpy", "numpy.testing", "gspo_core", "typeguard"),
    *("integration.records.run_folder", "integration.tasks.task", "integration.options.choices"),
)
HEAVY = ("torch", "transformers", "jax", "flax", "matplotlib", "reasoning_gym", *LATE)
PROGRAM = """
import sys
from importlib import import_module
from integration.options.command_line import command_line
script, *heavy = sys.argv.pop(1).split()
module = import_module(f"integration.{script}")
try:
    status = command_line(module.train, module.__doc__)
except SystemExit as ended:  # of --help, and of options that cannot be parsed
    status = ended.code
print(status, *sorted(set(heavy) & set(sys.modules)), file=sys.stderr)
"""


def answer(script: str, *options: str) -> tuple[str, str]:
    """(standard output, last line of standard error: exit status and the heavy modules that were imported)."""
    line = [sys.executable, "-c", PROGRAM, " ".join([script, *HEAVY]), *options]
    done = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=240, check=True)
    return done.stdout, done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "status"),
    [
        ("train_torch", ["--help"], 0),
        ("train_torch", ["--clip-fraction", "2"], 2),
        ("train_torch", ["--no-such-option"], 2),
        ("train_torch", ["--task", "count_bitz"], 2),
        ("train_torch", ["--objective", "ppo"], 2),
        ("train_jax", ["--help"], 0),
        ("train_jax", ["--rollouts", "-1"], 2),
    ],
)
def test_help_and_wrong_options_need_neither_a_framework_nor_the_core(script: str, options: list[str], status: int) -> None:
    """Half a second of processor time is what they may take, and NumPy with the core would be most of it."""
    printed, last = answer(script, *options)
    assert last == str(status)
    assert ("--lr-warm-up" in printed) == (status == 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options"),
    [("train_torch", ["--objective", "vespo", "--clip-low", "0.1"]), ("train_jax", ["--model", "small", "--device", "cuda"])],
)
def test_options_that_do_not_go_together_need_the_core_and_no_framework(script: str, options: list[str]) -> None:
    """It knows which objectives have a clip range. (A guard of the test above, too: what is imported is found.)"""
    assert answer(script, *options)[1] == "2 gspo_core integration.options.choices numpy"


@pytest.mark.slow
@pytest.mark.parametrize(("there", "says"), [("", "holds a run already"), ("config.json/x", "cannot be a folder")])
def test_a_run_folder_that_cannot_be_used_is_refused_before_anything_is_loaded(tmp_path: Path, there: str, says: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    line = [sys.executable, "-c", PROGRAM, " ".join(["train_torch", *HEAVY]), "--run-dir", str(tmp_path / there)]
    *_, said, last = subprocess.run(
        line, capture_output=True, text=True, env=environment(), timeout=240, check=True
    ).stderr.splitlines()
    assert says in said
    assert {"torch", "transformers"}.isdisjoint(last.split())
    assert last.startswith("2 ")


@pytest.mark.slow
def test_what_comes_after_the_options_does_import_one() -> None:
    """The guard of both: an argument that a task does not have is found out by the trainer."""
    frameworks = {"matplotlib", "reasoning_gym", "torch", "transformers"}
    status, *imported = answer("train_torch", "--task-args", "nosuch=1")[1].split()
    assert status == "2"
    assert frameworks <= set(imported)


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (UserError("--lr: too high"), 2, "error: --lr: too high\n"),
        (TrainingFailure("a gradient"), 3, "training stopped: a gradient\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "metrics.jsonl"), 3, "training stopped: [Errno 28] No space left on device"),
        (UserError("a text that this terminal cannot show: → \ud800"), 2, "error: a text that this terminal cannot show"),
    ],
)
def test_an_error_is_one_sentence_and_a_status(
    error: BaseException, status: int, printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(_: Config) -> int:
        raise error

    monkeypatch.setattr(sys, "argv", ["train_torch.py"])
    assert command_line(train, "Train.") == status
    assert capsys.readouterr().err.startswith(printed)
