"""Many short runs: several processes of one thread each, one line per finished run, and restarts that skip those.

    runs = [Run(f"gspo-seed-{seed}", {"arm": "gspo", "seed": seed}) for seed in range(8)]
    outcome = run_study(train_once, runs, Path("runs/study/results.jsonl"), jobs=16, time_limit=540)

`train_once(settings)` is a function of a module, so that a new process can import it, and returns plain numbers.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple, TypeVar

import tyro

from integration.options.command_line import guarded
from integration.options.errors import UserError
from integration.records.json_lines import Row, append_line, drop_torn_line, read_rows
from integration.studies.worker import Function, Run, Worker

INTERRUPTED, FAILED = 130, 3
"""Exit statuses."""

Options = TypeVar("Options")


@dataclass
class Outcome:
    """Exit state of a study."""

    finished: list[Row] = field(default_factory=list)
    """The lines of this study's runs in the results, those of earlier calls included."""
    waiting: list[str] = field(default_factory=list)
    """Runs that are not finished because of the time limit or Ctrl-C. The next call does them."""
    failed: dict[str, str] = field(default_factory=dict)
    """Runs that raised, and their tracebacks. The next call tries them again."""

    @property
    def status(self) -> int:
        """Exit status: 3 if a run failed, 130 if some are waiting, else 0."""
        return FAILED if self.failed else INTERRUPTED if self.waiting else 0


def run_study(function: Function, runs: list[Run], results: Path, *, jobs: int = 1, time_limit: float | None = None) -> Outcome:
    """Do the runs that are not in `results` yet, in order, `jobs` at a time; append each as it finishes.

    A line is {"name", "settings", "seconds", "result"}. Ctrl-C and `time_limit` (seconds) end the processes under way; the
    lines of finished runs stay. Raises UserError if names repeat, `jobs` is below 1, or `results` has a run of that name with
    other settings.
    """
    if jobs < 1:
        raise UserError(f"--jobs: expected at least 1, got {jobs}")
    done = _finished(runs, results)
    study = _Study(function, [run for run in runs if run.name not in done], results)
    deadline = None if time_limit is None else time.monotonic() + time_limit
    print(f"{len(done)} of {len(runs)} runs are done already; {jobs} at a time, to {results}", flush=True)
    try:
        study.work(jobs, deadline)
    except KeyboardInterrupt:
        print("interrupted; finished runs are kept", flush=True)
    finally:
        study.end()
    rows = _finished(runs, results)
    waiting = [run.name for run in runs if run.name not in rows and run.name not in study.failed]
    print(f"{len(rows)} of {len(runs)} runs are done, {len(waiting)} waiting, {len(study.failed)} failed", flush=True)
    for name, trace in study.failed.items():
        print(f"failed: {name}\n{trace}", flush=True)
    return Outcome(list(rows.values()), waiting, study.failed)


class Stage(NamedTuple):
    """Runs of one function, and where their results go."""

    function: Function
    runs: list[Run]
    results: Path


def run_stages(stages: Sequence[Stage], *, jobs: int, time_limit: float | None) -> int:
    """Studies one after the other, within one time limit: each if all runs of the one before are done. Returns the exit status.

    For models that are made first, and runs that start from them.
    """
    began, status = time.monotonic(), 0
    for function, runs, results in stages:
        left = None if time_limit is None else max(time_limit - (time.monotonic() - began), 0.0)
        status = run_study(function, runs, results, jobs=jobs, time_limit=left).status
        if status:
            break
    return status


def command_line(main: Callable[[Options], int], options: type[Options], description: str | None) -> None:
    """Read a study's options, run it and exit with its status; an error is one sentence, as of the training scripts."""
    module = sys.modules["__main__"].__spec__
    prog = None if module is None else f"python -m {module.name}"
    sys.exit(guarded(lambda: main(tyro.cli(options, prog=prog, description=description))))


def _finished(runs: list[Run], results: Path) -> dict[str, Row]:
    """The lines of these runs, by name, in the runs' order."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"runs: expected unique names, got {sorted({n for n in names if names.count(n) > 1})} more than once")
    rows = {row["name"]: row for row in read_rows(results)}
    for run in runs:
        if run.name in rows and rows[run.name]["settings"] != run.settings:
            raise UserError(
                f"{results}: run {run.name} was done with other settings, {rows[run.name]['settings']}, not {run.settings}; "
                "name another folder with --out"
            )
    return {name: rows[name] for name in names if name in rows}


class _Study:
    """Workers, the runs that are left, and the file of results."""

    def __init__(self, function: Function, runs: list[Run], results: Path) -> None:
        self.function, self.left, self.results = function, list(runs), results
        self.workers: list[Worker] = []
        self.failed: dict[str, str] = {}
        self.seconds: list[float] = []
        results.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_line(results)

    def work(self, jobs: int, deadline: float | None) -> None:
        """Until all runs are done, or to the deadline."""
        while self.left or any(worker.run for worker in self.workers):
            self.workers = [worker for worker in self.workers if worker.run or worker.process.is_alive()]
            while self.left and sum(worker.run is not None for worker in self.workers) < jobs:
                idle = [worker for worker in self.workers if worker.run is None]
                if not idle:
                    idle = [Worker(self.function)]
                    self.workers += idle
                idle[0].start(self.left.pop(0))
            busy = {worker.connection: worker for worker in self.workers if worker.run}
            rest = None if deadline is None else deadline - time.monotonic()
            ready = wait(list(busy), rest) if rest is None or rest > 0 else []
            if not ready:
                print("the time limit is reached", flush=True)
                return
            for connection in ready:
                assert isinstance(connection, Connection)
                self._finish(busy[connection], jobs)

    def _finish(self, worker: Worker, jobs: int) -> None:
        assert worker.run is not None
        name = worker.run.name
        line, error = worker.receive()
        if line is None:
            self.failed[name] = str(error)
            print(f"{name} failed: {str(error).strip().splitlines()[-1]}", flush=True)
            return
        append_line(self.results, line)
        self.seconds.append(json.loads(line)["seconds"])
        under_way = sum(worker.run is not None for worker in self.workers)
        mean = sum(self.seconds) / len(self.seconds)
        rest = mean * (len(self.left) + under_way / 2) / jobs
        print(f"{name}: {self.seconds[-1]:.1f} s; {len(self.left) + under_way} runs left, about {rest:.0f} s", flush=True)

    def end(self) -> None:
        """End all processes, and wait until they are gone."""
        for worker in self.workers:
            worker.close()
        for worker in self.workers:
            worker.process.join()
