"""Where a run goes on: in its own folder from its last whole checkpoint, or as a copy in a new one from an earlier."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from integration.options.config import Config
from integration.options.errors import NotWritten, UserError
from integration.options.ranges import flag
from integration.records.checksums import damage
from integration.records.files import replace_folder
from integration.records.run_folder import UNFINISHED, RunFolder, has_state, model_alone
from integration.records.transcript_files import transcript_files

FREE = {
    "rollouts", "keep_checkpoints", "keep_states", "checkpoint_every", "cache_dir", "threads", "tracker", "data_parallel",
    "model_parallel", "parallel", "context_parallel", "vocabulary_parallel",
}  # fmt: skip
"""Options that a resumed run may change: they do not change what it computes. (Threads, devices and processes may, in the last
digits.)"""
OF_A_COPY = FREE | {"run_dir", "resume_step", "lr", "lr_warm_up", "max_grad_norm", "max_bad_steps", "kl_coefficient"}
"""Options that a copy may change."""


def saved_options(folder: Path) -> Config:
    """The options to go on with if none is changed: those that the run was started, or last resumed, with."""
    saved = Config.from_json(RunFolder(folder, keep_checkpoints=1).config())
    return dataclasses.replace(saved, resume=folder, run_dir=None, resume_step=None)


def check_changes(config: Config) -> None:
    """UserError for an option of a run to resume that differs from the saved one and may not; says what to do."""
    assert config.resume is not None
    saved = saved_options(config.resume)
    for field in dataclasses.fields(config):
        before, now = getattr(saved, field.name), getattr(config, field.name)
        if before != now and field.name not in (FREE if config.run_dir is None else OF_A_COPY):
            way_out = "start a new run" if field.name not in OF_A_COPY else "name a new --run-dir, which the run is copied to"
            raise UserError(
                f"{flag(field.name)}: the run to resume has {before}, not {now}; leave the option out, or {way_out}"
            )


def resume_options(folder: Path, **changes: Any) -> Config:
    """The saved options of a run with these changes, which UserError refuses as `check_changes` does."""
    config = dataclasses.replace(saved_options(folder), **changes)
    check_changes(config)
    return config


def open_run(config: Config) -> tuple[Config, RunFolder, Path | None]:
    """(options, the run's folder, the checkpoint to start from). A run that is resumed is owned by this process from here on.

    The folder of a new run is only looked at: `RunFolder.create` makes it when everything else is ready.
    """
    if config.resume is None:
        folder = RunFolder(config.new_run_dir(), keep_checkpoints=config.keep_checkpoints, keep_states=config.keep_states)
        folder.require_free()
        return config, folder, None
    check_changes(config)
    threads = saved_options(config.resume).threads
    if threads not in (None, config.threads):
        print(f"--threads: the run so far had {threads}, now {config.threads}: sums may differ in their last digits")
    if config.run_dir is not None:
        copy_run(config, config.resume, config.run_dir)
        config = dataclasses.replace(config, resume=config.run_dir, run_dir=None, resume_step=None)
    assert config.resume is not None
    folder = RunFolder(config.resume, keep_checkpoints=config.keep_checkpoints, keep_states=config.keep_states)
    folder.own("--resume")
    checkpoint = folder.newest_whole()
    _require_enough_rollouts(config, checkpoint)
    return config, folder, checkpoint


def remember(config: Config, folder: RunFolder) -> None:
    """Save the options of a resumed run, once its checkpoint has been read: a refused command line changes nothing."""
    folder.write_json("config.json", dataclasses.replace(config, resume=None, run_dir=folder.path).to_json())
    folder.tidy()  # the run may have been killed after its last checkpoint, before older ones were deleted


def copy_run(config: Config, source: Path, target: Path) -> None:
    """Copy a run up to a checkpoint, --resume-step or the newest whole one, into a new folder, with the new options.

    The options come last: until then the new folder holds no run. NotWritten, and nothing is left of it, if that fails.
    """
    old = RunFolder(source, keep_checkpoints=1)
    new = RunFolder(target, keep_checkpoints=config.keep_checkpoints, keep_states=config.keep_states)
    new.require_free()
    old.own("--resume")
    try:
        checkpoint = old.newest_whole() if config.resume_step is None else _checkpoint_at(old, config.resume_step)
        if checkpoint is None:
            raise UserError(f"--run-dir: {source} has no checkpoint to copy yet; leave --run-dir out, or start a new run")
        _require_enough_rollouts(config, checkpoint)
        new.claim()
        try:
            _copy_files(old, new, checkpoint)
            new.write_json("config.json", dataclasses.replace(config, resume=None, run_dir=target, resume_step=None).to_json())
        except (OSError, NotWritten) as error:
            with suppress(OSError):  # what cannot be deleted is named when the folder is to be used again
                new.discard()
            what = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition(";")[0]
            raise NotWritten(f"--run-dir: {target} could not be written: {what}; {source} is as it was") from error
    finally:
        old.close()
        new.close()


def _copy_files(old: RunFolder, new: RunFolder, checkpoint: Path) -> None:
    """All but the options."""
    replace_folder(new.path / "checkpoints" / checkpoint.name, lambda path: shutil.copytree(checkpoint, path))
    for name in ("metrics.jsonl", "evaluations.jsonl", "task.json"):
        if (old.path / name).exists():
            shutil.copy(old.path / name, new.path / name)
    new.rewind(int(checkpoint.name))
    for transcript, step in transcript_files(old.path / "transcripts").items():
        if step <= int(checkpoint.name):
            shutil.copy(transcript, new.path / "transcripts" / transcript.name)


def _require_enough_rollouts(config: Config, checkpoint: Path | None) -> None:
    done = 0 if checkpoint is None else int(checkpoint.name)
    if config.rollouts < done:
        raise UserError(f"--rollouts: the run to resume has done {done} already; name at least as many, got {config.rollouts}")
    if config.rollouts == done and checkpoint is not None and (checkpoint / UNFINISHED).exists():
        raise UserError(
            f"--rollouts: the run to resume is in the middle of rollout {done + 1}, some of whose updates are in its weights; "
            f"name at least {done + 1}, got {config.rollouts}"
        )


def _checkpoint_at(folder: RunFolder, step: int) -> Path:
    """The checkpoint after `step` rollouts; UserError that lists the others if there is none, or if it is broken."""
    there = {int(path.name): path for path in folder.checkpoints()}
    if step not in there:
        known = ", ".join(map(str, there)) or "none"
        raise UserError(f"--resume-step: {folder.path} has no checkpoint of step {step}; there are: {known}")
    if not has_state(there[step]):
        raise UserError(f"--resume-step: {model_alone(there[step])}")
    wrong = damage(there[step])
    if wrong is not None:
        raise UserError(f"--resume-step: checkpoint {there[step]} is broken: {wrong}")
    return there[step]
