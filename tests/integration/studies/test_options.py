"""Every option of the studies has its legal range: what is outside is refused at once, in one sentence that names it."""

from __future__ import annotations

import dataclasses
import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from integration.options.errors import TrainingFailure, UserError
from integration.studies.moe_static.study import Options
from integration.studies.moe_training.study import Command, chosen
from integration.studies.multi_turn.study import Study, runs_of
from integration.studies.runner import command_line

STUDIES: dict[str, tuple[Any, list[str]]] = {
    "moe-static": (Options, []),
    "moe-training": (Command, ["--out", "o"]),
    "multi-turn": (Study, []),
}
ZERO = {("multi-turn", "lrs"), ("multi-turn", "target"), ("multi-turn", "first_seed"), ("moe-training", "seeds")}
"""Options that may be 0, beside every time limit."""
ALL = {("moe-training", "seeds"), ("moe-training", "lrs")}
"""Options of which no value is every value."""
TEXTUAL = {"out", "cache_dir", "start_from", "tables", "report_only", "only"}


def started(study: str, *words: str) -> tuple[Any, Any, str]:
    """(options that the study would begin with, exit status, what was printed)."""
    kind, needed = STUDIES[study]
    taken: list[Any] = []

    def main(options: Any) -> int:
        taken.append(options)
        if study == "moe-training":
            chosen(options)
        return 0

    line = ["study", *needed, *words]
    printed = io.StringIO()
    with (
        patch.object(sys, "argv", line), redirect_stderr(printed), redirect_stdout(io.StringIO()),
        pytest.raises(SystemExit) as ended,
    ):  # fmt: skip
        command_line(main, kind, "A study.")
    return (taken or [None])[0], ended.value.code, printed.getvalue()


@pytest.mark.parametrize("study", STUDIES)
def test_odd_words_are_legal_or_refused_in_one_sentence(study: str) -> None:
    kind, _ = STUDIES[study]
    names = [field.name for field in dataclasses.fields(kind) if field.name not in TEXTUAL]
    for name, word in product(names, ("-1", "0", "nan", "inf", "-inf", "1e30", "", "[]")):
        words = [] if word == "[]" else [word]
        _, status, said = started(study, f"--{name.replace('_', '-')}", *words)
        legal = word == "0" and (name == "time_limit" or (study, name) in ZERO)
        legal |= word == "[]" and (study, name) in ALL
        assert status == (0 if legal else 2), (name, word, said)
        assert "Traceback" not in said
        assert legal or name.replace("_", "-") in said, (name, word)


@pytest.mark.parametrize(
    ("study", "words", "sentence"),
    [
        ("moe-training", ["--studies"], "--studies: expected at least one, got none"),
        ("moe-training", ["--studies", "calibration", "--lrs", "0.003"], "--lrs: expected some of"),
        ("moe-training", ["--only", "nosuch"], "--only: expected some of"),
        ("multi-turn", ["--arms", "gspo", "ppo"], "--arms: expected some of gspo"),
        ("multi-turn", ["--arms"], "--arms: expected some of gspo"),
        ("multi-turn", ["--lrs", "1e-4", "nan"], "--lrs: expected a number in [0, 1), got nan"),
        ("multi-turn", ["--out", ""], "--out: expected the name of a folder"),
    ],
)
def test_a_choice_of_nothing_is_refused(study: str, words: list[str], sentence: str) -> None:
    _, status, said = started(study, *words)
    assert (status, said.startswith(f"error: {sentence}")) == (2, True), said


def test_arms_seeds_and_rates_that_never_meet_are_refused() -> None:
    both: Any = ("main", "calibration")
    there = {(job.arm.name, job.seed, job.lr) for job in chosen(Command(Path("o"), studies=both))}
    apart = set(product(*({one[part] for one in there} for part in range(3)))) - there
    assert apart
    for arm, seed, lr in sorted(apart)[::50]:
        with pytest.raises(UserError, match=r"^--only, --seeds, --lrs: no run of these studies has"):
            chosen(Command(Path("o"), studies=both, only=(arm,), seeds=(seed,), lrs=(lr,)))


def test_a_study_named_twice_is_done_once() -> None:
    assert chosen(Command(Path("o"), studies=("main", "main"))) == chosen(Command(Path("o"), studies=("main",)))
    assert len({run.name for run in runs_of(Study())}) == len(runs_of(Study()))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TrainingFailure("no model"), 3),
        (OSError(28, "No space left on device", "results.jsonl"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_of_a_study_is_one_sentence(error: BaseException, status: int) -> None:
    def main(_: Options) -> int:
        raise error

    with patch.object(sys, "argv", ["study"]), redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit) as ended:
        command_line(main, Options, "A study.")
    assert ended.value.code == status
    assert len(said.getvalue().splitlines()) == 1
