"""Wherever a run writes, a full disk or a read-only folder ends it in one sentence, and nothing that was saved is lost.

The sentence names what could not be written and the last whole checkpoint. When there is room again, the run goes on and ends
as one that nothing happened to.
"""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from support.runs.broken_disk import Fault, Killed, Watched, disk
from support.runs.scripts import rows

from integration.options.command_line import guarded
from integration.options.config import Config
from integration.options.errors import NotWritten, UserError
from integration.options.resuming import open_run, remember, resume_options
from integration.records import report
from integration.records.checksums import damage
from integration.records.run_folder import RunFolder, has_state
from integration.shared import loop
from integration.shared.evaluation import Evaluation
from integration.shared.interrupt import Stopping
from integration.shared.ranks import OneProcess

pytestmark = pytest.mark.slow

KILLED = 0
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT)
ZEROS = ("clip_low", "clip_high", "max_abs_log_s", "grad_norm", "seconds_sampling", "seconds_updating", "skipped_steps")
ROW = dict.fromkeys(ZEROS, 0.0) | {key: [] for key in ("log_s", "findings", "by_mini_batch")}
ROW |= {"response_length": 1.0, "clip_fraction": 0.5}


class Trainer:
    """A run whose weights are a number, which every rollout scrambles."""

    task: Any = None
    unfinished: Any = None
    sampler: Any = None
    ranks = OneProcess()

    def __init__(self, path: Path) -> None:
        """As `prepare` of both scripts."""
        begun = (path / "config.json").exists()
        options = resume_options(path) if begun else Config(run_dir=path, rollouts=4, checkpoint_every=2)
        self.config, self.folder, checkpoint = open_run(options)
        self.step, self.weights = 0, 1
        try:
            if not begun:
                self.folder.create(self.config.to_json())
            else:
                if checkpoint is not None:
                    self.step, self.weights = int(checkpoint.name), int((checkpoint / "weights").read_text())
                remember(self.config, self.folder)
            self.folder.rewind(self.step if self.step else -1)
        except BaseException:
            self.folder.close()
            raise

    def save(self) -> None:
        """The weights as a file."""

        def fill(folder: Path) -> None:
            folder.mkdir()
            (folder / "weights").write_text(str(self.weights))
            (folder / "state.json").write_text("{}")

        self.folder.save_checkpoint(self.step, fill)

    def give_up(self) -> None:
        """Nothing is given up here: a signal comes when something is written."""

    def one_rollout(self, stop: Stopping) -> dict[str, Any]:
        """A line of metrics that depends on all that was before."""
        stop.finish()
        self.weights = self.weights * 6364136223846793005 % 2**61
        return {**ROW, "reward": self.weights / 2**61}


class Picture(Figure):
    """Nothing but a file."""

    def savefig(self, stream: Any, **_: Any) -> None:
        """Its bytes."""
        stream.write(b"picture")


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations and pictures of nothing, and no question to git."""
    monkeypatch.setattr(loop, "environment", lambda *_: {"date": "today"})
    monkeypatch.setattr(report, "captioned", lambda _: [(Picture(), "A caption.")])
    monkeypatch.setattr(report, "described", lambda _: [])
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: Evaluation([0.5], [0.5], []))
    monkeypatch.setattr(report, "plots", lambda _: Picture())
    monkeypatch.setattr(report, "gain_interval", lambda *_: (0.0, 0.0))
    monkeypatch.setattr(os, "fsync", lambda _: None)


def run(path: Path) -> None:
    """A run, or what is left of it, to its end."""
    trainer = Trainer(path)
    assert loop.run(trainer, trainer.one_rollout) == 0


def state(path: Path) -> dict[str, Any]:
    """All that must be as if nothing had happened. Which older models there are depends on where a run was stopped."""
    *older, last = sorted((path / "checkpoints").glob("[0-9]*"))
    assert all(damage(p) is None and not has_state(p) for p in older)
    folders = (last, path / "transcripts")
    files = {str(p.relative_to(path)): p.read_text() for f in folders for p in f.rglob("*") if p.is_file()}
    return {"files": files, "metrics": rows(path), "evaluations": rows(path, "evaluations.jsonl")}


def fails(path: Path, fault: Fault) -> bool:
    """Run with this fault. If it comes before the end: one sentence, which names what it must."""
    try:
        with disk(path, fault):
            run(path)
    except (NotWritten, UserError) as error:
        said = str(error)
        whole = [p for p in (path / "checkpoints").glob("[0-9]*") if damage(p) is None]
        assert "\n" not in said
        assert str(path) in said
        assert whole or len(rows_of(path)) <= 2, "a checkpoint that was saved is lost"
        if isinstance(error, UserError):  # at the door, where nothing has been done yet
            assert said.startswith(("--run-dir: ", "--resume: "))
        elif whole:
            assert f"the last whole checkpoint is {max(whole)}. When" in said
        else:
            assert "no checkpoint was saved before" in said
        return True
    return False


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Complete lines of metrics; none if there is no file yet."""
    return RunFolder(path, keep_checkpoints=1).rows("metrics.jsonl")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an undisturbed run goes, once."""
    return tmp_path_factory.mktemp("undisturbed") / "run"


@pytest.fixture
def expected(undisturbed: Path) -> dict[str, Any]:
    """What it has left."""
    if not undisturbed.exists():
        run(undisturbed)
    return state(undisturbed)


@pytest.mark.parametrize("stays", [False, True])
def test_every_single_write_may_fail(tmp_path: Path, expected: dict[str, Any], stays: bool) -> None:
    with disk(tmp_path) as counted:
        run(tmp_path / "counted")
    failed, every = 0, range(int(stays), counted.changes, 2)
    for at, number in zip(every, cycle(ERRORS), strict=False):
        path = tmp_path / f"run-{at}"
        failed += fails(path, Fault(at, number, stays))
        run(path)
        assert state(path) == expected, at
    assert failed > max(50, 0.95 * len(every)), "next to none of them can be done without"


@given(
    faults=st.lists(st.builds(Fault, at=st.integers(0, 150), errno=st.sampled_from(ERRORS), stays=st.booleans()), max_size=4)
)
def test_a_run_that_fails_again_and_again_ends_as_an_undisturbed_one(expected: dict[str, Any], faults: list[Fault]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "run")
        for fault in faults:
            fails(path, fault)
        run(path)
        assert state(path) == expected


@given(at=st.integers(1, 190), later=st.one_of(st.none(), st.integers(1, 12)))
def test_a_run_that_is_stopped_anywhere_ends_as_an_undisturbed_one(
    expected: dict[str, Any], at: int, later: int | None
) -> None:
    """By SIGTERM; a second one, a few changes later, stops it at once."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "run")

        def main() -> int:
            trainer = Trainer(path)
            return loop.run(trainer, trainer.one_rollout)

        def stop() -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        with disk(path, made=Watched(path, stop, at, *([] if later is None else [at + later]))):
            status = guarded(main)
        assert status in (0, 130)
        saved = sorted((path / "checkpoints").glob("[0-9]*"))
        if later is None and status == 130 and rows_of(path):
            assert damage(saved[-1]) is None
            assert int(saved[-1].name) == len(rows_of(path)), "the rollout under way is finished, and saved"
        run(path)
        assert state(path) == expected


@pytest.mark.parametrize("number", [errno.ENOSPC, KILLED])
def test_a_copy_is_whole_or_it_is_no_run(tmp_path: Path, number: int) -> None:
    source = tmp_path / "source"
    run(source)
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    with disk(tmp_path) as counted:
        open_run(resume_options(source, run_dir=tmp_path / "whole"))[1].close()
    for at in range(counted.changes):
        target = tmp_path / f"copy-{at}"
        with disk(tmp_path, Fault(at, number, False)), suppress(Killed, NotWritten, UserError):
            open_run(resume_options(source, run_dir=target))[1].close()
        assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before
        empty = {"owner.lock", "checkpoints", "transcripts"}
        if not (target / "config.json").exists():
            if number == KILLED and any(path.name not in empty for path in target.rglob("*")):
                with pytest.raises(UserError, match=r"holds .* of a run, but no config\.json; delete it, or name another"):
                    open_run(resume_options(source, run_dir=target))
                continue
            open_run(resume_options(source, run_dir=target))[1].close()
        assert state(target) == state(tmp_path / "whole")
