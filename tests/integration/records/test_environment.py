"""What a run was made with: what is written at each start, and what is said of all of them."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest

from integration.options.config import Config
from integration.records.environment import PACKAGES, commit, described, environment
from integration.records.json_lines import Row


def started(day: int, **changes: object) -> Row:
    """A line."""
    row = {
        "date": f"2026-01-{day:02}T00:00:00+00:00", "commit": f"{day:012}",
        "python": "3.11.7", "versions": {"torch": f"2.{day}"},
        "machine": "Linux x86_64, 2 cores", "device": "cpu", "dtype": "float32", "threads": day,
    }  # fmt: skip
    return row | changes


@pytest.fixture
def no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout whose commit is known."""
    monkeypatch.setattr("integration.records.environment.commit", lambda _: "abc")


@pytest.mark.usefixtures("no_git")
def test_a_line_is_of_this_moment_this_machine_and_these_options() -> None:
    row = environment(Config(threads=3, dtype="bfloat16"))
    assert json.loads(json.dumps(row)) == row
    assert abs(datetime.fromisoformat(row["date"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert row["versions"] == {name: version(name) for name in PACKAGES}
    assert (row["python"], row["threads"], row["dtype"], row["device"]) == (platform.python_version(), 3, "bfloat16", "cpu")
    assert row["commit"] == "abc"
    assert row["machine"].endswith(f", {os.cpu_count()} cores")


@pytest.mark.usefixtures("no_git")
def test_a_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integration.records.environment.PACKAGES", ("torch", "no-such-package"))
    assert environment(Config())["versions"] == {"torch": version("torch")}


def test_the_first_start_and_the_last_are_told_and_the_rest_is_of_the_last() -> None:
    one, three = (dict(described([started(day) for day in range(1, last + 1)])) for last in (1, 3))
    assert one["Begun"] == "2026-01-01T00:00:00+00:00"
    assert three["Begun"] == "2026-01-01T00:00:00+00:00; 2 times resumed, last 2026-01-03T00:00:00+00:00"
    assert three["Commit"] == "000000000003"
    assert three["Versions"] == "Python 3.11.7, torch 2.3"
    assert three["Machine"] == "Linux x86_64, 2 cores; cpu, float32, 3 CPU thread(s)"
    assert dict(described([started(1, commit=None)]))["Commit"] == "not a git checkout"
    assert described([]) == []


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed, or slower than ten seconds."""
    for error in (FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10)):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("integration.records.environment.subprocess.run", fail)
        assert commit(tmp_path) is None


@pytest.mark.slow
def test_a_commit_is_that_of_the_checkout_with_a_mark_for_changes(tmp_path: Path) -> None:
    """And no repository has none."""
    assert commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    clean = commit(tmp_path)
    assert clean is not None
    assert len(clean) == 12
    (tmp_path / "unknown").write_text("1")
    assert commit(tmp_path) == clean
    (tmp_path / "file").write_text("2")
    assert commit(tmp_path) == f"{clean}+"
