"""Hostile answers for every task of reasoning-gym: nothing ends, hangs, or scores outside [0, 1].

    python -m integration.rewards.hostile --out runs/hostile-answers.json

Each task gets 95 answers that try to end, hang, fill, leave or fool its verifier, and then its own solutions, which must score
as by a direct call. The record has what happened, and what judging costs.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from integration.rewards.hostile_answers import hostile_answers
from integration.rewards.sources import EXECUTING, Direct, GymSource
from integration.rewards.verdicts import Limits
from integration.rewards.worker import Worker


@dataclass(frozen=True)
class Options:
    """Which tasks, and where the record goes."""

    out: Path = Path("runs/hostile-answers.json")
    tasks: tuple[str, ...] = ()
    """Default: all."""
    seconds: float = 0.5
    """Of processor time for an answer."""


def attack(name: str, seconds: float, seed: int) -> dict[str, Any]:
    """What happened in one task."""
    args = {"datasets": [{"name": "chain_sum"}, {"name": "spiral_matrix"}]} if name == "composite" else {}
    source = GymSource(name, args, 0, 8)
    dataset = source.dataset()
    entries = [dataset[index] for index in range(4)]
    worker = Worker(source, Limits(seconds))
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "kept").write_text("kept")
        began = time.monotonic()
        pairs = [(entries[i % 4], text) for i, text in enumerate(hostile_answers(place, seed))]
        verdicts = worker.verdicts(pairs)
        spent = time.monotonic() - began
        kept = [path.name for path in Path(place).iterdir()] == ["kept"] and (Path(place) / "kept").read_text() == "kept"
    solved = [(e, e["answer"]) for e in entries if isinstance(e["answer"], str)]
    after, direct = worker.verdicts(solved), Direct(source.open()).verdicts(solved)
    worker.close()
    return {
        "task": name,
        "executes": source.executing,
        "answers": len(verdicts),
        "outside": sum(not 0.0 <= v.score <= 1.0 for v in verdicts),
        "failures": dict(sorted(Counter(v.failure for v in verdicts if v.failure).items())),
        "paid": sum(v.score > 0 for v in verdicts),
        "files_kept": kept,
        "worker_starts": worker.starts,
        "solutions_as_before": after == direct,
        "seconds": round(spent, 2),
    }


def cost(name: str, rows: int, repeats: int = 5) -> dict[str, Any]:
    """Milliseconds for each of `rows` honest answers of a rollout: the least of some repeats."""
    source = GymSource(name, {}, 0, rows)
    dataset = source.dataset()
    pairs = [(e, str(e["answer"])) for e in (dataset[i] for i in range(rows))]
    began = time.perf_counter()
    worker = Worker(source)
    worker.verdicts(pairs[:1])
    start = time.perf_counter() - began
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        worker.verdicts(pairs)
        times.append(time.perf_counter() - began)
    alone = [(e, f"{text} #f()") for e, text in pairs[:16]]
    began = time.perf_counter()
    worker.verdicts(alone)
    apart = (time.perf_counter() - began) / len(alone)
    worker.close()
    return {
        "task": name, "answers": rows, "ms_for_all": round(1e3 * min(times), 2), "ms_each": round(1e3 * min(times) / rows, 3),
        "ms_each_if_suspicious": round(1e3 * apart, 2), "seconds_to_start": round(start, 2),
    }  # fmt: skip


def record(names: Iterable[str], seconds: float) -> dict[str, Any]:
    """All of it."""
    tasks = []
    for number, name in enumerate(names):
        tasks.append(attack(name, seconds, number))
        print(json.dumps(tasks[-1]), file=sys.stderr, flush=True)
    failures: Counter[str] = Counter()
    for row in tasks:
        failures.update(row["failures"])
    return {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seconds_limit": seconds,
        "answers": sum(row["answers"] for row in tasks),
        "tasks_attacked": len(tasks),
        "outside_unit_interval": sum(row["outside"] for row in tasks),
        "files_touched": sum(not row["files_kept"] for row in tasks),
        "solutions_scored_differently_afterwards": sum(not row["solutions_as_before"] for row in tasks),
        "failures": dict(sorted(failures.items())),
        "cost": [cost(name, 96) for name in ("chain_sum", "spell_backward", "spiral_matrix")],
        "tasks": tasks,
    }


def main(options: Options) -> None:
    """Attack, and write the record."""
    from reasoning_gym.factory import DATASETS  # noqa: PLC0415 (--help does not need it)

    assert set(DATASETS) >= EXECUTING
    found = record(options.tasks or sorted(DATASETS), options.seconds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in found.items() if name != "tasks"}, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
