"""Kill one process of a run of several, resume on another number of processes, and compare with a run that nobody disturbed.

    python tests/support/runs/kills_of_ranks.py --kills 20 --seed 0

Every part of a run is of 1, 2 or 4 processes, with DDP or FSDP2, as chance has it. A process is killed at a random moment after
the first rollout of its part; the others have to end by themselves, with a sentence.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from support.runs.forked import LONGEST, Done, Started
from support.runs.kills import FirstRow
from support.runs.scripts import TINY, environment, rows

ROLLOUTS = 8
LIMIT = 60.0
"""Seconds after which the others have to have ended."""
OPTIONS = [*TINY, "--checkpoint-every", "1", "--eval-every", "5", "--keep-checkpoints", "3", "--rollouts", str(ROLLOUTS)]
SAID = "another process of this run ended, or does not answer any more"


class Ranks:
    """The processes of one start, as a launcher would begin them."""

    def __init__(self, count: int, options: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if count > 1 else {}
        own = [{**environment(), **shared, **({"RANK": str(rank)} if shared else {})} for rank in range(count)]
        self.processes = [Started("train_torch.py", options, each) for each in own]

    def wait(self, seconds: float) -> float:
        """Wait for all of them, at most so long; how long it was."""
        began = time.monotonic()
        for process in self.processes:
            process.wait(max(0.0, seconds - (time.monotonic() - began)))
        return time.monotonic() - began

    def is_running(self) -> bool:
        """Whether one has not ended."""
        return any(process.is_running() for process in self.processes)

    def done(self) -> list[Done]:
        """All of them, ended."""
        return [process.done() for process in self.processes]


@dataclass
class Killer:
    """Kills processes of runs."""

    workplace: Path
    seed: int
    kills: int = 0
    slowest: float = 0.0
    """Seconds that the others needed to end."""
    furthest: float = 0.0
    """The largest difference of a weight from the undisturbed run's."""
    starts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._run("undisturbed", 1, "ddp")
        began = time.monotonic()
        self._run("undisturbed-2", 2, "ddp")
        self._seconds = 0.6 * (time.monotonic() - began)
        self.compare("undisturbed-2")

    def kill(self, count: int, name: str, *, parts: list[tuple[int, str]] | None = None) -> None:
        """Kill so often in one run, then finish it and compare. `parts`: processes and --parallel of each start, in turn."""
        chosen = iter(parts or [])
        for _ in range(count):
            self._killed(name, *next(chosen, (self._random.choice([2, 4]), self._random.choice(["ddp", "fsdp"]))))
        self._run(name, *next(chosen, (self._random.choice([1, 2, 4]), self._random.choice(["ddp", "fsdp"]))))
        self.compare(name)

    def compare(self, name: str) -> None:
        """The same rollouts, and weights that differ by rounding alone."""
        ours, expected = (rows(self.workplace / each) for each in (name, "undisturbed"))
        assert [row["step"] for row in ours] == list(range(1, ROLLOUTS + 1))
        for mine, whole in zip(ours, expected, strict=True):
            assert (mine["reward"], sorted(mine["lengths"])) == (whole["reward"], sorted(whole["lengths"])), (
                name,
                mine["step"],
            )
        weights = [load_file(self._last(each) / "model.safetensors") for each in (name, "undisturbed")]
        assert weights[0].keys() == weights[1].keys()
        gap = max(float(np.abs(weights[0][key] - weights[1][key]).max()) for key in weights[0])
        assert gap <= 1e-4, (name, gap)
        self.furthest = max(self.furthest, gap)

    def _last(self, name: str) -> Path:
        return max((self.workplace / name / "checkpoints").glob("[0-9]*"))

    def _start(self, name: str, count: int, parallel: str) -> Ranks:
        folder = self.workplace / name
        begun = (folder / "config.json").exists()
        options = ["--resume", str(folder)] if begun else [*OPTIONS, "--run-dir", str(folder)]
        mine = ["--parallel", parallel] if count > 1 else []
        self.starts.append(f"{count} {parallel}" if count > 1 else "1")
        return Ranks(count, ["--cache-dir", str(self.workplace / "cache"), *options, *mine])

    def _run(self, name: str, count: int, parallel: str) -> None:
        for done in self._start(name, count, parallel).done():
            assert done.returncode == 0, f"{name}: {done}"

    def _killed(self, name: str, count: int, parallel: str) -> None:
        first = FirstRow(self.workplace / name)
        ranks = self._start(name, count, parallel)
        deadline = time.monotonic() + LONGEST
        while ranks.is_running() and not first():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        ranks.wait(self._random.uniform(0, self._seconds / 3))
        if not ranks.is_running():  # it was finished before
            assert all(done.returncode == 0 for done in ranks.done())
            return
        victim = self._random.randrange(count)
        ranks.processes[victim].send(signal.SIGKILL)
        self.slowest = max(self.slowest, ranks.wait(LIMIT))
        assert not ranks.is_running(), f"{name}: still there {LIMIT:.0f} s after process {victim} was killed"
        others = [done for index, done in enumerate(ranks.done()) if index != victim]
        assert all(done.returncode in {3, 0} for done in others), others
        assert all(SAID in done.stderr for done in others if done.returncode), others
        self.kills += 1


def main() -> int:
    """Kill as often as asked for, up to three times in a run, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    killer = Killer(Path(tempfile.mkdtemp(prefix="kills-of-ranks-")), given.seed)
    run = 0
    while killer.kills < given.kills:
        run += 1
        killer.kill(min(3, given.kills - killer.kills), f"run-{run}")
    found: dict[str, Any] = {"kills": killer.kills, "runs": run, "slowest_seconds": round(killer.slowest, 1)}
    print(json.dumps({**vars(given), **found, "largest_difference": killer.furthest, "starts": killer.starts}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
