"""Kill a training script again and again, resume it each time, and compare the run with one that nobody disturbed.

    python tests/support/runs/kills.py --script train_torch --kills 60 --seed 0

A third of the kills come while a checkpoint is written, the others at random moments between the first rollout of a process
and the time that an undisturbed one takes from there to its last checkpoint: never while it is only loading. A run is resumed
until it is finished; then the next one begins, until there were enough kills. Processes are forked from a server that has
imported the frameworks, and JAX keeps what it compiles, which makes a start cheap.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from support.runs.scripts import TINY, rows

from integration.options.command_line import command_line

ROLLOUTS = 12
OPTIONS = [*TINY, "--rollouts", str(ROLLOUTS), "--checkpoint-every", "2", "--eval-every", "5", "--keep-checkpoints", "3"]
LONGEST = 240.0
"""Seconds that a process may take before something is wrong."""


def train(script: str, options: list[str], compiled: str) -> None:
    """A forked process: the script with these options, printing nowhere."""
    if script == "train_jax":
        jax = import_module("jax")
        jax.config.update("jax_compilation_cache_dir", compiled)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    module = import_module(f"integration.{script}")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    sys.argv = [script, *options]
    sys.exit(command_line(module.train, module.__doc__))


def state(folder: Path) -> dict[str, Any]:
    """All that must be equal, bit for bit: metrics, evaluations, transcripts and the last checkpoint's weights."""
    last = max((folder / "checkpoints").glob("[0-9]*"))
    return {
        "metrics": rows(folder),
        "evaluations": rows(folder, "evaluations.jsonl"),
        "transcripts": {path.name: path.read_bytes() for path in sorted((folder / "transcripts").glob("*.json"))},
        "step": last.name,
        "files": {name: (last / name).read_bytes() for name in ("model.safetensors", "config.json")},
        "checkpoints": sorted(path.name for path in (folder / "checkpoints").glob("[0-9]*")),
    }


def half_written(folder: Path) -> set[tuple[int, int]]:
    """Checkpoints that a process is writing, or was when it died; each one that is begun anew is another."""
    found = set()
    for path in (folder / "checkpoints").glob(".*.tmp"):
        try:
            found.add((path.stat().st_ino, path.stat().st_ctime_ns))
        except FileNotFoundError:  # renamed between the two
            continue
    return found


class FirstRow:
    """Whether a process has finished a rollout: its lines of metrics are in a file that it began by writing anew."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "metrics.jsonl"
        self._before = self._found()
        self._begun: tuple[int, int] | None = None

    def __call__(self) -> bool:
        """True from its first line on, once it was seen that the file is the process's own."""
        now = self._found()
        if now is None or (self._before is not None and now[0] == self._before[0]):
            return False
        self._begun = self._begun or now
        return now[1] > self._begun[1]

    def _found(self) -> tuple[int, int] | None:
        """(inode, size)."""
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size


@dataclass
class Killer:
    """Kills runs of one script."""

    script: str
    workplace: Path
    seed: int
    kills: int = 0
    in_writes: int = 0
    """Kills that left a half-written checkpoint."""
    runs: int = 0
    different: list[Path] = field(default_factory=list)
    """Runs that did not end as the undisturbed one."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([f"integration.on_{self.script.removeprefix('train_')}.training", __name__])
        first = FirstRow(self.workplace / "undisturbed")
        process = self._start("undisturbed")
        self._wait_for(process, first)
        began = time.monotonic()
        self._wait_for(process, (self.workplace / "undisturbed" / "checkpoints" / f"{ROLLOUTS:06d}").exists)
        self._seconds = 1.1 * (time.monotonic() - began)
        """From the first rollout, by which nearly all is compiled, to a little after the last checkpoint."""
        self._reference = self._finish(process, "undisturbed")

    def kill(self, count: int) -> None:
        """Kill `count` times; every run that was begun is finished and compared."""
        goal = self.kills + count
        while self.kills < goal:
            self.runs += 1
            name = f"run-{self.runs}"
            while self.kills < goal and self._killed(name):
                pass
            if self._finish(self._start(name), name) != self._reference:
                self.different.append(self.workplace / name)

    def _start(self, name: str) -> Any:
        folder = self.workplace / name
        begun = (folder / "config.json").exists()
        options = ["--resume", str(folder)] if begun else [*OPTIONS, "--run-dir", str(folder)]
        options = ["--cache-dir", str(self.workplace / "c"), *options]
        process = self._context.Process(target=train, args=(self.script, options, str(self.workplace / "compiled")))
        process.start()
        return process

    def _killed(self, name: str) -> bool:
        """Go on with the run and kill it at a random moment; False if it was finished before."""
        folder = self.workplace / name
        first, left = FirstRow(folder), half_written(folder)
        in_write = self._random.random() < 1 / 3
        wait = self._random.uniform(0, 0.02 if in_write else self._seconds)
        process = self._start(name)
        self._wait_for(process, first)
        if in_write:
            self._wait_for(process, lambda: half_written(folder) - left)
        process.join(wait)
        if process.exitcode is not None:
            assert process.exitcode == 0, f"{folder}: exit status {process.exitcode}"
            return False
        process.kill()
        process.join()
        self.kills += 1
        self.in_writes += bool(half_written(folder) - left)
        return True

    def _wait_for(self, process: Any, there: Any) -> None:
        deadline = time.monotonic() + LONGEST
        while process.exitcode is None and not there():
            assert time.monotonic() < deadline
            time.sleep(0.0005)

    def _finish(self, process: Any, name: str) -> dict[str, Any]:
        process.join(LONGEST)
        assert process.exitcode == 0, f"{name}: exit status {process.exitcode}"
        return state(self.workplace / name)


def main() -> int:
    """Kill as often as asked for, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", choices=("train_torch", "train_jax"), required=True)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    killer = Killer(given.script, Path(tempfile.mkdtemp(prefix="kills-")), given.seed)
    killer.kill(given.kills)
    counts = {"kills": killer.kills, "in_writes": killer.in_writes, "runs": killer.runs}
    print(json.dumps({**vars(given), **counts, "different": [str(path) for path in killer.different]}))
    return 1 if killer.different else 0


if __name__ == "__main__":
    sys.exit(main())
