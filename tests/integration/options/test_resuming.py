"""A run goes on with its own options from its newest whole checkpoint, in one process; a copy may change more."""

from __future__ import annotations

import dataclasses
import json
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from support.runs.metrics import metrics_row

from integration.options.command_line import read_options
from integration.options.config import Config
from integration.options.errors import TrainingFailure, UserError
from integration.options.resuming import open_run, remember, resume_options
from integration.options.sizes import WarmUp
from integration.records.checksums import write_checksums
from integration.records.json_lines import append_row
from integration.records.run_folder import RunFolder
from integration.records.transcript_files import transcript_files

SAVED = {
    "model": "small", "lr": 0.5, "rollouts": 7, "keep_checkpoints": 3, "keep_states": 9, "threads": 1,
    "warm_up": WarmUp(hidden=32),
}  # fmt: skip


def fill(folder: Path) -> None:
    """A checkpoint's files."""
    folder.mkdir()
    (folder / "weights").write_bytes(b"weights")
    (folder / "state.json").write_bytes(b"state")


def make_run(path: Path, steps: tuple[int, ...] = (2, 4, 6)) -> Path:
    """A run that has saved at these steps, closed."""
    folder = RunFolder(path, keep_checkpoints=100, keep_states=100)
    folder.create(Config(**SAVED).to_json())
    for step in range(1, 8):
        append_row(path / "metrics.jsonl", metrics_row(step))
        if step in steps:
            folder.save_checkpoint(step, fill)
    for name in ("before", "after-000002", "after-000006"):
        folder.write_json(f"transcripts/{name}.json", [])
    folder.close()
    return path


def typed(monkeypatch: pytest.MonkeyPatch, *words: str) -> Config:
    """The options of a command line."""
    monkeypatch.setattr(sys, "argv", ["train_torch.py", *words])
    return read_options("Train.")


def test_what_is_left_out_is_as_saved_and_what_is_given_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a value that is the default of a new run."""
    run = make_run(tmp_path / "run")
    assert typed(monkeypatch, "--resume", str(run)) == dataclasses.replace(Config(**SAVED), resume=run)
    assert typed(monkeypatch, f"--resume={run}", "--rollouts", "40").rollouts == 40
    assert typed(monkeypatch, "--keep-checkpoints", "2", "--resume", str(run)).keep_checkpoints == 2
    for words in (["--lr", "1e-5"], ["--seed", "1"], ["--warm-up.hidden", "160"]):
        with pytest.raises(UserError, match=f"^{words[0].split('.')[0]}"):
            typed(monkeypatch, "--resume", str(run), *words)
    assert typed(monkeypatch, "--resume", str(run), "--lr", "0.5").lr == 0.5


def test_what_was_extended_is_remembered(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    config, folder, _ = open_run(resume_options(run, rollouts=9, keep_checkpoints=50))
    assert resume_options(run).rollouts == 7, "nothing is changed before the checkpoint has been read"
    remember(config, folder)
    folder.close()
    again = resume_options(run)
    assert (again.rollouts, again.keep_checkpoints, again.lr) == (9, 50, 0.5)
    assert [path.name for path in folder.checkpoints()] == ["000002", "000004", "000006"], "none is deleted by opening"


def test_fewer_rollouts_than_were_done_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--rollouts: the run to resume has done 6 already"):
        open_run(resume_options(make_run(tmp_path / "run"), rollouts=5))


def test_the_rollout_that_a_checkpoint_is_in_the_middle_of_has_to_be_finished(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "checkpoints/000006/unfinished.pt").write_bytes(b"work")
    write_checksums(run / "checkpoints/000006")
    for changes in ({}, {"run_dir": tmp_path / "copy"}):
        with pytest.raises(UserError, match=r"^--rollouts: the run to resume is in the middle of rollout 7.*at least 7, got 6"):
            open_run(resume_options(run, rollouts=6, **changes))
    open_run(resume_options(run, rollouts=7))[1].close()


def test_files_beside_the_transcripts_are_nobodys_business(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for name in ("notes.json", "._after-000002.json", "after-000002 copy.json", "after-x.json"):
        (run / "transcripts" / name).write_text("[")
    open_run(resume_options(run, run_dir=tmp_path / "copy"))[1].close()
    there = {path.name for path in (tmp_path / "copy/transcripts").iterdir()}
    assert there == {"before.json", "after-000002.json", "after-000006.json"}
    assert {path.name: step for path, step in transcript_files(run / "transcripts").items()} == dict(
        zip(("before.json", "after-000002.json", "after-000006.json"), (0, 2, 6), strict=True)
    )


def test_a_folder_has_one_owner_until_it_is_closed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    _, first, _ = open_run(resume_options(run))
    before = (run / "metrics.jsonl").read_bytes(), (run / "config.json").read_bytes()
    for changes in ({"rollouts": 9}, {"run_dir": tmp_path / "copy"}):
        with pytest.raises(UserError, match="--resume: another process is writing to"):
            open_run(resume_options(run, **changes))
    assert ((run / "metrics.jsonl").read_bytes(), (run / "config.json").read_bytes()) == before
    first.close()
    open_run(resume_options(run))[1].close()


SUBSETS = [set(), {2}, {4}, {6}, {2, 4}, {2, 6}, {4, 6}, {2, 4, 6}]


@pytest.mark.parametrize(
    ("harmed", "name"), list(zip(SUBSETS, cycle(["weights", "state.json", "checksums.json"]), strict=False))
)
def test_the_newest_whole_checkpoint_is_used_and_broken_ones_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harmed: set[int], name: str
) -> None:
    run = make_run(tmp_path / "run")
    for step in harmed:
        (run / "checkpoints" / f"{step:06d}" / name).write_bytes(b"")
    whole = [step for step in (2, 4, 6) if step not in harmed]
    capsys.readouterr()
    if not whole:
        with pytest.raises(UserError, match=r"no checkpoint in .* is whole: 000006: .*; 000004: .*; 000002: "):
            open_run(resume_options(run))
        return
    _, folder, checkpoint = open_run(resume_options(run))
    folder.close()
    assert checkpoint == run / "checkpoints" / f"{whole[-1]:06d}"
    newer = [step for step in harmed if step > whole[-1]]
    said = capsys.readouterr().out
    assert said.count("is broken") == len(newer)
    for step in newer:
        assert f"{step:06d} is broken: {name}" in said
        assert (run / "checkpoints" / f"broken-{step:06d}").is_dir(), "it can still be looked at"


@pytest.mark.parametrize("step", [None, 2, 4])
def test_a_copy_goes_on_from_any_checkpoint_with_another_learning_rate(tmp_path: Path, step: int | None) -> None:
    run, target = make_run(tmp_path / "run"), tmp_path / "copy"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    config, folder, checkpoint = open_run(resume_options(run, run_dir=target, resume_step=step, lr=0.25))
    folder.close()
    done = step or 6
    assert checkpoint == target / "checkpoints" / f"{done:06d}"
    assert (config.lr, config.resume, config.run_dir) == (0.25, target, None)
    assert [row["step"] for row in folder.rows("metrics.jsonl")] == list(range(1, done + 1))
    assert json.loads((target / "config.json").read_text())["lr"] == 0.25
    kept = {"before.json", "after-000002.json"} | ({"after-000006.json"} if done == 6 else set())
    assert {path.name for path in (target / "transcripts").iterdir()} == kept
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, "the run itself is untouched"
    assert resume_options(target).lr == 0.25


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"resume_step": 3, "run_dir": Path("copy")}, "--resume-step: .* has no checkpoint of step 3; there are: 2, 4, 6"),
        (
            {"seed": 1, "run_dir": Path("copy")},
            "--seed: the run to resume has 0, not 1; leave the option out, or start",
        ),
        ({"lr": 0.1}, "--lr: the run to resume has 0.5, not 0.1; leave the option out, or name a new --run-dir"),
        ({"resume_step": 2}, "--resume-step: goes with --resume and a new --run-dir"),
        ({"run_dir": Path("run")}, "--run-dir: run holds a run already"),
        ({"run_dir": Path("copy"), "rollouts": 3}, "--rollouts: the run to resume has done 6 already"),
    ],
)
def test_a_copy_that_makes_no_sense_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(Path("run"))
    with pytest.raises(UserError, match=f"^{sentence}"):
        open_run(resume_options(run, **changes))
    assert not Path("copy").exists()


def test_a_link_among_the_checkpoints_is_one_and_deleting_it_spares_what_it_points_to(tmp_path: Path) -> None:
    run, elsewhere = make_run(tmp_path / "run"), tmp_path / "elsewhere"
    (run / "checkpoints" / "000002").rename(elsewhere)
    (run / "checkpoints" / "000002").symlink_to(elsewhere)
    (run / "checkpoints" / "latest").symlink_to("000006")
    _, folder, checkpoint = open_run(resume_options(run))
    assert checkpoint == run / "checkpoints" / "000006"
    folder.save_checkpoint(7, fill)
    folder.close()
    assert [path.name for path in folder.checkpoints()] == ["000004", "000006", "000007"]
    assert (elsewhere / "weights").read_bytes() == b"weights"


def test_a_checkpoint_that_cannot_be_written_leaves_the_others(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    _, folder, _ = open_run(resume_options(run))

    def full(path: Path) -> None:
        fill(path)
        raise RuntimeError("PytorchStreamWriter failed writing file\nNo space left on device")

    with pytest.raises(TrainingFailure, match=r"000007 could not be written: .*PytorchStreamWriter.*; the last whole .*000006"):
        folder.save_checkpoint(7, full)
    folder.close()
    assert [path.name for path in folder.checkpoints()] == ["000002", "000004", "000006"]


def test_a_checkpoint_that_is_a_model_alone_cannot_be_resumed_from(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    config, folder, _ = open_run(resume_options(run, keep_states=1))
    remember(config, folder)
    folder.close()
    with pytest.raises(
        UserError, match=r"^--resume-step: .*000004 is a model without .*; start a new run from it with --model"
    ):
        open_run(resume_options(run, run_dir=tmp_path / "copy", resume_step=4))
    (run / "checkpoints" / "000006" / "weights").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"no checkpoint in .* is whole: 000006: weights .*; 000004: .*000004 is a model without"
    ):
        open_run(resume_options(run))
    assert len(list((run / "checkpoints").iterdir())) == 3, "nothing is set aside if there is nothing to go on from"


def test_options_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "config.json").write_bytes(b"\xef\xbb\xbf" + (run / "config.json").read_bytes())
    assert resume_options(run).lr == 0.5


@pytest.mark.parametrize("content", ["", "[]", "3", '{"lr": 1}', "\x00", "null"])
def test_options_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    run = make_run(tmp_path / "run")
    (run / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"^--resume: "):
        resume_options(run)


def test_a_run_folder_that_cannot_be_made_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "file/run", "file/a/b", "dangling"):
        with pytest.raises(UserError, match=r"^--run-dir: .* cannot be a folder"):
            open_run(Config(run_dir=tmp_path / name))
    with pytest.raises(UserError, match="holds a run already"):
        open_run(Config(run_dir=make_run(tmp_path / "run")))
    assert {path.name for path in tmp_path.iterdir()} == {"file", "dangling", "run"}
