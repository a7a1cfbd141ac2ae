"""A study survives kills, failures and restarts: no run is done twice, none is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.repository import PATHS
from support.runs.studies import square

from integration.options.errors import UserError
from integration.records.json_lines import read_rows
from integration.studies.runner import Outcome, Stage, command_line, run_stages, run_study
from integration.studies.worker import Run

pytestmark = pytest.mark.slow


def runs_of(count: int, marks: Path, **of: dict[str, Any]) -> list[Run]:
    """Runs 0 … count − 1; `of` has further settings for some, by name."""
    marks.mkdir(exist_ok=True)
    return [Run(f"run{x}", {"x": x, "marks": str(marks), **of.get(f"run{x}", {})}) for x in range(count)]


def test_every_run_is_done_once_by_as_many_processes_as_jobs(tmp_path: Path) -> None:
    results, runs = tmp_path / "deep" / "results.jsonl", runs_of(5, tmp_path / "marks")
    outcome = run_study(square, runs, results, jobs=2)
    assert outcome.status == 0
    assert [row["result"]["y"] for row in outcome.finished] == [0, 1, 4, 9, 16]
    assert [row["settings"] for row in outcome.finished] == [run.settings for run in runs]
    assert {row["result"]["threads"] for row in outcome.finished} == {1}
    processes = {row["result"]["process"] for row in outcome.finished}
    assert os.getpid() not in processes
    assert len(processes) == 2

    again = run_study(square, runs_of(6, tmp_path / "marks"), results)
    assert again.status == 0
    assert len(read_rows(results)) == 6
    assert sorted(mark.name.split("-")[0] for mark in (tmp_path / "marks").iterdir()) == list("012345")


def test_a_torn_last_line_is_done_again(tmp_path: Path) -> None:
    results, runs = tmp_path / "results.jsonl", runs_of(2, tmp_path / "marks")
    run_study(square, runs, results)
    whole = results.read_text()
    results.write_text(whole[:-3])
    assert len(read_rows(results)) == 1
    outcome = run_study(square, runs, results)
    assert [row["name"] for row in read_rows(results)] == ["run0", "run1"]
    assert outcome.status == 0


def test_runs_that_raise_die_or_return_no_number_are_reported_and_the_others_go_on(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    runs = runs_of(5, tmp_path / "marks", run0={"raises": True}, run1={"dies": True}, run2={"nan": True})
    outcome = run_study(square, runs, results)
    assert outcome.status == 3
    assert "seven is right out" in outcome.failed["run0"]
    assert "exit code 9" in outcome.failed["run1"]
    assert "not JSON compliant" in outcome.failed["run2"]
    assert [row["name"] for row in read_rows(results)] == ["run3", "run4"]


def test_the_time_limit_ends_what_is_under_way_and_keeps_what_was_finished(tmp_path: Path) -> None:
    # Both jobs sleep for longer than the limit, so that run3 cannot begin, however fast this machine is.
    results, runs = tmp_path / "results.jsonl", runs_of(4, tmp_path / "marks", run1={"sleeps": True}, run2={"sleeps": True})
    run_study(square, runs[:1], results)
    outcome = run_study(square, runs, results, jobs=2, time_limit=0.05)
    assert outcome.status == 130
    assert outcome.waiting == ["run1", "run2", "run3"]
    assert [row["name"] for row in outcome.finished] == ["run0"]
    assert not multiprocessing.active_children()


def test_ctrl_c_keeps_what_was_finished_and_leaves_no_process(tmp_path: Path) -> None:
    runs = runs_of(3, tmp_path / "marks", run1={"sleeps": True})
    script = tmp_path / "study.py"
    script.write_text(
        "import signal, sys\nfrom pathlib import Path\nfrom support.runs.studies import square\n"
        "from integration.studies.runner import run_study\nfrom integration.studies.worker import Run\n"
        # As in a terminal: tests that run in the background inherit a Ctrl-C that is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"if __name__ == '__main__':\n    runs = {runs!r}\n"
        f"    sys.exit(run_study(square, runs, Path({str(tmp_path / 'results.jsonl')!r})).status)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}
    with subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            printed = [process.stdout.readline() for _ in range(2)]
            assert "run0" in printed[1]
            while not list((tmp_path / "marks").glob("1-*")):
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=60)  # ends when no worker holds the pipe any more
        finally:
            process.kill()
    assert process.returncode == 130
    assert "1 of 3 runs are done, 2 waiting, 0 failed" in rest
    assert json.loads((tmp_path / "results.jsonl").read_text())["result"]["y"] == 0


def test_what_a_person_does_wrong(tmp_path: Path) -> None:
    results, runs = tmp_path / "results.jsonl", runs_of(1, tmp_path / "marks")
    with pytest.raises(UserError, match=r"--jobs: expected at least 1, got 0"):
        run_study(square, runs, results, jobs=0)
    with pytest.raises(UserError, match=r"runs: expected unique names, got \['run0'\] more than once"):
        run_study(square, runs * 2, results)
    row = {"name": "run0", "settings": {"x": 8}, "seconds": 1.0, "result": {}}
    results.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"run run0 was done with other settings, \{'x': 8\}, not"):
        run_study(square, runs, results)


def test_a_stage_waits_for_the_one_before_it(tmp_path: Path) -> None:
    first, second = (Stage(square, [Run("run", {"x": x})], tmp_path / f"{x}.jsonl") for x in (2, 3))
    assert run_stages([first, second], jobs=1, time_limit=None) == 0
    assert [read_rows(stage.results)[0]["result"]["y"] for stage in (first, second)] == [4, 9]
    broken = Stage(square, [Run("run", {"x": 1, "raises": True})], tmp_path / "broken.jsonl")
    never = Stage(square, [Run("run", {"x": 1})], tmp_path / "never.jsonl")
    assert run_stages([first, broken, never], jobs=1, time_limit=None) == 3
    assert not never.results.exists()
    assert run_stages([first, never], jobs=1, time_limit=0.0) == 130
    assert not never.results.exists()


def test_the_command_line_ends_with_the_status_of_the_study(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclass(frozen=True)
    class Options:
        jobs: int = 1

    def main(options: Options) -> int:
        if options.jobs < 1:
            raise UserError(f"--jobs: expected at least 1, got {options.jobs}")
        return Outcome(waiting=["run"]).status

    for line, status, printed in (((), 130, ""), (("--jobs", "0"), 2, "error: --jobs: expected at least 1, got 0\n")):
        monkeypatch.setattr(sys, "argv", ["study", *line])
        with pytest.raises(SystemExit) as ended:
            command_line(main, Options, "A study.")
        assert ended.value.code == status
        assert capsys.readouterr().err == printed
