"""Many short training runs: several processes of one thread each, one line per finished run, and restarts that skip those.

    runs = [Run(f"gspo-seed-{seed}", {"arm": "gspo", "seed": seed}) for seed in range(8)]
    outcome = run_study(train_once, runs, Path("runs/study/results.jsonl"), jobs=16, time_limit=540)

`train_once(settings)` is a function of a module, so that a new process can import it, and returns plain numbers.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from integration.shared.errors import UserError

Row = dict[str, Any]
Function = Callable[[Row], Row]


@dataclass(frozen=True)
class Run:
    """One run of a study."""

    name: str
    """Unique in the study: what a restart knows it by."""
    settings: Row
    """What the function gets: plain JSON values."""


@dataclass
class Outcome:
    """How a study ended."""

    finished: list[Row] = field(default_factory=list)
    """The lines of this study's runs in the results, those of earlier calls included."""
    waiting: list[str] = field(default_factory=list)
    """Runs that were not finished: the time limit or Ctrl-C came first. The next call does them."""
    failed: dict[str, str] = field(default_factory=dict)
    """Runs that raised, and their tracebacks. The next call tries them again."""

    @property
    def status(self) -> int:
        """Exit status: 3 if a run failed, 130 if some are waiting, else 0."""
        return 3 if self.failed else 130 if self.waiting else 0


def run_study(function: Function, runs: list[Run], results: Path, *, jobs: int = 1, time_limit: float | None = None) -> Outcome:
    """Do the runs that `results` does not hold, in their order, `jobs` at a time; append each as it finishes.

    A line is {"name", "settings", "seconds", "result"}. Ctrl-C and `time_limit` (seconds) end the processes under way; what
    was finished stays. Raises UserError if names repeat, `jobs` is below 1, or `results` has a run of that name with other
    settings.
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


def read_results(results: Path) -> list[Row]:
    """The finished runs; a torn last line (the process was killed while writing) is left out."""
    lines = results.read_text(encoding="utf-8").split("\n") if results.exists() else []
    return [json.loads(line) for line in lines[:-1]]


def _finished(runs: list[Run], results: Path) -> dict[str, Row]:
    """The lines of these runs, by name, in the runs' order."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"runs: expected unique names, got {sorted({n for n in names if names.count(n) > 1})} more than once")
    rows = {row["name"]: row for row in read_results(results)}
    for run in runs:
        if run.name in rows and rows[run.name]["settings"] != run.settings:
            raise UserError(
                f"{results}: run {run.name} was done with other settings, {rows[run.name]['settings']}, not {run.settings}; "
                "name another file"
            )
    return {name: rows[name] for name in names if name in rows}


class _Worker:
    """A process that does one run after another. It ends with its connection, so it cannot outlive the study."""

    def __init__(self, function: Function) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA and OpenMP do not survive a fork
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.run: Run | None = None

    def give(self, run: Run) -> None:
        """Begin a run."""
        self.run = run
        self.connection.send(run)

    def take(self) -> tuple[str | None, str | None]:
        """(line for the results, None), or (None, what went wrong)."""
        self.run = None
        try:
            line, error = self.connection.recv()
        except EOFError:
            self.process.join()
            return None, f"its process ended with exit code {self.process.exitcode}"
        return line, error


class _Study:
    """Workers, the runs that are left, and the file."""

    def __init__(self, function: Function, runs: list[Run], results: Path) -> None:
        self.function, self.left, self.results = function, list(runs), results
        self.workers: list[_Worker] = []
        self.failed: dict[str, str] = {}
        self.seconds: list[float] = []
        results.parent.mkdir(parents=True, exist_ok=True)
        if results.exists():  # a torn last line goes before anything is appended to it
            whole = results.read_bytes()
            results.write_bytes(whole[: whole.rfind(b"\n") + 1])

    def work(self, jobs: int, deadline: float | None) -> None:
        """Until nothing is left, or the deadline."""
        while self.left or any(worker.run for worker in self.workers):
            self.workers = [worker for worker in self.workers if worker.run or worker.process.is_alive()]
            while self.left and sum(worker.run is not None for worker in self.workers) < jobs:
                idle = [worker for worker in self.workers if worker.run is None]
                if not idle:
                    idle = [_Worker(self.function)]
                    self.workers += idle
                idle[0].give(self.left.pop(0))
            busy = {worker.connection: worker for worker in self.workers if worker.run}
            rest = None if deadline is None else deadline - time.monotonic()
            ready = wait(list(busy), rest) if rest is None or rest > 0 else []
            if not ready:
                print("the time limit has come", flush=True)
                return
            for connection in ready:
                assert isinstance(connection, Connection)
                self._finish(busy[connection], jobs)

    def _finish(self, worker: _Worker, jobs: int) -> None:
        assert worker.run is not None
        name = worker.run.name
        line, error = worker.take()
        if line is None:
            self.failed[name] = str(error)
            print(f"{name} failed: {str(error).strip().splitlines()[-1]}", flush=True)
            return
        with self.results.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self.seconds.append(json.loads(line)["seconds"])
        under_way = sum(worker.run is not None for worker in self.workers)
        mean = sum(self.seconds) / len(self.seconds)
        rest = mean * (len(self.left) + under_way / 2) / jobs
        print(f"{name}: {self.seconds[-1]:.1f} s; {len(self.left) + under_way} to go, about {rest:.0f} s", flush=True)

    def end(self) -> None:
        """Let idle processes leave by themselves, end those under way, and wait until all are gone."""
        for worker in self.workers:
            worker.connection.close()
            if worker.run:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join()


def _serve(function: Function, connection: Connection) -> None:
    """A worker's life: one thread, deaf to Ctrl-C (the study ends it)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    while True:
        try:
            run: Run = connection.recv()
        except EOFError:
            return
        began = time.perf_counter()
        answer: tuple[str | None, str | None]
        try:
            result = function(run.settings)
            seconds = round(time.perf_counter() - began, 2)
            row = {"name": run.name, "settings": run.settings, "seconds": seconds, "result": result}
            answer = json.dumps(row, allow_nan=False), None
        except Exception:  # whatever a run raises is the study's to report, and the other runs go on
            answer = None, traceback.format_exc()
        connection.send(answer)
