"""task.json of a run folder: which questions a run has, how disjoint its parts are, and what a constant answer is paid."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from integration.options.errors import UserError
from integration.records.json_lines import Row
from integration.records.run_folder import RunFolder
from integration.rewards.probe import probe
from integration.tasks.task import Task

FILE = "task.json"


def _hashes(files: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each file."""
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files}


def describe(task: Task) -> Row:
    """Everything; it gives junk to the verifier, which takes about a second."""
    assert task.parts is not None
    found = probe(task)
    return {
        "task": task.name,
        "reasoning_gym": version("reasoning-gym"),
        "train": len(task.train),
        "train_distinct": len({e.question for e in task.train}),
        "held_out": len(task.held_out),
        "disjoint_by_problem": task.parts.by_problem,
        "left_out_reworded": task.parts.reworded,
        "fingerprint": task.parts.fingerprint,
        "constant_answer": found.row(),
        "sentences": [task.parts.sentence, found.sentence],
    }


def begin(task: Task, folder: RunFolder, files: Iterable[str] = ()) -> None:
    """Write task.json of a new run, and say what stands in it. `files`: Python files that the options name."""
    row = {**describe(task), "files": _hashes(files)}
    folder.write_json(FILE, row)
    print("\n".join(row["sentences"]), flush=True)


def require_same_questions(task: Task, folder: RunFolder, files: Iterable[str] = ()) -> None:
    """UserError if a run that is resumed would see other questions than before, or runs other files."""
    assert task.parts is not None
    saved: dict[str, Any] | None = folder.read_json(FILE)
    if saved is None and not folder.checkpoints():  # killed before it was written, or before anything else was
        begin(task, folder, files)
        return
    if saved is None:
        raise UserError(f"--resume: {folder.path} has no {FILE}: it is of a version that drew other questions; start a new run")
    for name, kind in (("fingerprint", str), ("reasoning_gym", str), ("files", dict)):
        if not isinstance(saved.get(name), kind):
            raise UserError(
                f"--resume: {folder.path / FILE} is damaged: expected {name}, got {saved.get(name)!r:.100}; restore the file "
                "from a copy"
            )
    for path, now in _hashes(files).items():
        if saved["files"].get(path) != now:
            raise UserError(f"--resume: {path} is not what it was when the run was started; a changed file is a new run")
    if saved["fingerprint"] != task.parts.fingerprint:
        raise UserError(
            f"--resume: the questions of {task.name} are not those of the run so far, which had reasoning-gym "
            f"{saved['reasoning_gym']} (here: {version('reasoning-gym')}); a changed task is a new run"
        )
