"""Kill a training script again and again, resume it each time, and compare the run with one that nobody disturbed.

    python tests/support/runs/kills.py --script train_torch --kills 60 --seed 0

A third of the kills come while a checkpoint is written, the others at random moments between the first rollout of a process
and the time that an undisturbed one takes from there to its last checkpoint: never while it is only loading. A run is resumed
until it is finished; then the next one begins, until there were enough kills. Every kill leaves a torn last line of metrics.
Processes are forked from a server that has imported the frameworks, and JAX keeps what it compiles: a start is cheap.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.runs.forked import LONGEST, Started
from support.runs.scripts import TINY, compiled_once, environment, rows

ROLLOUTS = 12
OPTIONS = [*TINY, "--checkpoint-every", "2", "--eval-every", "5", "--keep-checkpoints", "3"]


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
    rollouts: int = ROLLOUTS
    options: list[str] = field(default_factory=lambda: OPTIONS)
    """How each run is begun, beside the number of rollouts."""
    kills: int = 0
    in_writes: int = 0
    """Kills that left a half-written checkpoint."""
    runs: int = 0
    different: list[Path] = field(default_factory=list)
    """Runs that did not end as the undisturbed one."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        first = FirstRow(self.undisturbed)
        process = self._start("undisturbed", whole=True)
        self._wait_for(process, first)
        began = time.monotonic()
        self._wait_for(process, (self.undisturbed / "checkpoints" / f"{self.rollouts:06d}").exists)
        self._seconds = 1.1 * (time.monotonic() - began)
        """From the first rollout, by which nearly all is compiled, to a little after the last checkpoint."""
        self._reference = self._finish(process, "undisturbed")

    @property
    def undisturbed(self) -> Path:
        """The run that the others are compared with."""
        return self.workplace / "undisturbed"

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

    def _start(self, name: str, *, whole: bool = False) -> Started:
        folder = self.workplace / name
        begun = (folder / "config.json").exists()
        fresh = [*self.options, "--rollouts", str(self.rollouts), "--run-dir", str(folder)]
        options = ["--cache-dir", str(self.workplace / "cache"), *(["--resume", str(folder)] if begun else fresh)]
        with compiled_once(self.workplace / "compiled"):
            return Started(f"{self.script}.py", options, environment(), whole=whole)

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
        process.wait(wait)
        if not process.is_running():
            done = process.done()
            assert done.returncode == 0, f"{folder}: {done}"
            return False
        process.send(signal.SIGKILL)
        process.done()
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 99, "torn')
        self.kills += 1
        self.in_writes += bool(half_written(folder) - left)
        return True

    def _wait_for(self, process: Started, there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LONGEST
        while process.is_running() and not there():
            assert time.monotonic() < deadline
            time.sleep(0.0005)

    def _finish(self, process: Started, name: str) -> dict[str, Any]:
        done = process.done()
        assert done.returncode == 0, f"{name}: {done}"
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
