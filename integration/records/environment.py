"""What a run was made with: date, versions, commit and machine, a line for every start of its process."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from integration.records.json_lines import Row

PACKAGES = ("gspo-core", "torch", "jax", "transformers", "reasoning-gym", "numpy")
SOURCE = Path(__file__).parents[2]


def environment(config: Any, processes: int = 1) -> Row:
    """A line of JSON values; packages that are not installed are left out."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(SOURCE),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": config.device,
        "dtype": config.dtype,
        "threads": config.threads,
        "processes": processes,
    }


def commit(folder: Path) -> str | None:
    """The commit of a checkout, with "+" behind it if files that git knows were changed since; None outside of one."""
    found = _git(folder, "rev-parse", "HEAD")
    if found is None:
        return None
    return found[:12] + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def described(rows: list[Row]) -> list[tuple[str, str]]:
    """(label, text) of a run's starts, for people: of the last one, and how many there were."""
    if not rows:
        return []
    last = rows[-1]
    versions = ", ".join(f"{name} {number}" for name, number in last["versions"].items())
    place = f"{last['machine']}; {last['device']}, {last['dtype']}, {last['threads']} CPU thread(s)"
    place += f" in each of {last['processes']} processes" if last.get("processes", 1) > 1 else ""
    begun = f"{rows[0]['date']}" + (f"; {len(rows) - 1} times resumed, last {last['date']}" if len(rows) > 1 else "")
    return [
        ("Begun", begun),
        ("Commit", last["commit"] or "not a git checkout"),
        ("Versions", f"Python {last['python']}, {versions}"),
        ("Machine", place),
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
