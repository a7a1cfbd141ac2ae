"""A run on disk: its configuration, metrics and checkpoints. What has been written here survives a kill and a power cut.

config.json            the options of the run
task.json              its questions: how disjoint, which constant answer pays, and a fingerprint
metrics.jsonl          one line per rollout          (also as TensorBoard events under tensorboard/)
evaluations.jsonl      one line per evaluation
environment.jsonl      one line per start: versions, commit, machine
transcripts/           sampled answers, before and after
checkpoints/000010/    in the framework's format (on_torch/checkpoint.py, on_jax/checkpoint.py), and checksums of its files;
                       older ones are the model alone
owner.lock             locked by the process that writes here; the lock goes with the process
report.html
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from integration.options.errors import NotWritten, ProcessLost, UserError
from integration.records.checksums import NAME as CHECKSUMS
from integration.records.checksums import damage, write_checksums
from integration.records.files import recover, remove, replace_folder, write_whole
from integration.records.json_lines import Row, append_row, read_rows
from integration.records.run_lines import NEEDED, require_whole_lines

if TYPE_CHECKING:
    from integration.records.event_file import EventFile

CONTENTS = ("metrics.jsonl", "evaluations.jsonl", "transcripts", "checkpoints")
"""What a run has beside its options."""
UNFINISHED = "unfinished.pt"
"""What a checkpoint in the middle of a rollout has beside the others."""
STATE = ("trainer.pt", UNFINISHED, "optimizer", "state.json")
"""What a checkpoint has beside the model, in the formats of either framework."""


class RunFolder:
    """One run's folder. Files are replaced whole or appended by the line, checkpoints are renamed into place."""

    def __init__(self, path: Path, *, keep_checkpoints: int, keep_states: int = 1) -> None:
        self.path = path
        self.keep_checkpoints, self.keep_states = keep_checkpoints, keep_states
        self.listeners: list[Callable[[str, Row], None]] = []
        """Called with the name of the file and the line, after each `append`."""
        self._events: EventFile | None = None
        self._lock = FileLock(path / "owner.lock")

    def require_free(self) -> None:
        """UserError if a new run cannot go here; nothing is written."""
        if (self.path / "config.json").exists():
            raise UserError(
                f"--run-dir: {self.path} holds a run already; continue it with --resume {self.path}, or name another folder"
            )
        remains = [name for name in CONTENTS if _holds_something(self.path / name)]
        if remains:
            raise UserError(
                f"--run-dir: {self.path} holds {remains[0]} of a run, but no config.json; delete it, or name another folder"
            )
        there = next(p for p in (self.path, *self.path.absolute().parents) if p.exists() or p.is_symlink())
        if not there.is_dir():
            raise UserError(f"--run-dir: {self.path} cannot be a folder: {there} is none")
        if not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"--run-dir: {self.path} cannot be written: {there} is read-only")

    def create(self, config: Row) -> None:
        """Make the folder, own it and begin a run; UserError if it holds a run already, or cannot be made."""
        self.claim()
        self.write_json("config.json", config)

    def claim(self) -> None:
        """Make the folder and own it. It holds a run only when it has its config.json."""
        self.require_free()
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
            (self.path / "transcripts").mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"--run-dir: {self.path} cannot be made: {error.strerror}") from error
        self.own("--run-dir")
        self.require_free()  # another process may have been between the first look and the lock

    def discard(self) -> None:
        """Delete what a run that could not be begun has left in its folder."""
        for name in ("config.json", *CONTENTS):
            remove(self.path / name)

    def own(self, option: str) -> None:
        """Lock the folder for this process until it ends or closes it; UserError naming `option` if another one has it."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"{option}: another process is writing to {self.path}; wait for it, or stop it first") from error
        except OSError as error:
            raise UserError(f"{option}: {self.path} cannot be written: {error.strerror}") from error

    def config(self) -> Row:
        """The options that the run was started with; UserError if this is not the folder of a run."""
        try:
            return dict(json.loads((self.path / "config.json").read_text(encoding="utf-8-sig")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"--resume: {self.path} is not the folder of a run: {error}") from error

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """NotWritten, which names the file or folder and where to go on, in place of an OSError inside."""
        try:
            yield
        except OSError as error:
            raise self.not_written(name, error.strerror or str(error)) from error

    def not_written(self, name: str, what: str) -> NotWritten:
        """The sentence: what could not be written, why, and where to go on."""
        whole = next((path for path in reversed(self.checkpoints()) if damage(path) is None), None)
        saved = "no checkpoint was saved before" if whole is None else f"the last whole checkpoint is {whole}"
        begun = (self.path / "config.json").exists()
        way_on = f"go on with --resume {self.path}" if begun else "start the run again"
        return NotWritten(f"{self.path / name} could not be written: {what}; {saved}. When that is mended, {way_on}")

    def write(self, name: str, content: str | bytes) -> Path:
        """Replace a file by `content`; it is never half written. Returns its path. NotWritten as on a full disk."""
        with self.writing(name):
            write_whole(self.path / name, content)
        return self.path / name

    def write_json(self, name: str, content: Any) -> None:
        """Replace a file by `content` as JSON."""
        self.write(name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> Row | None:
        """A file's content; None if there is no such file. UserError if it is damaged."""
        try:
            return dict(json.loads((self.path / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"--resume: {self.path / name} is damaged: {error}") from error

    def rows(self, name: str) -> list[Row]:
        """The complete lines of a .jsonl file."""
        return read_rows(self.path / name)

    def append(self, name: str, row: Row) -> None:
        """Append a line, and add its numbers to TensorBoard. NotWritten as on a full disk."""
        with self.writing(name):
            append_row(self.path / name, row)
        part = name.removesuffix(".jsonl")
        numbers = {f"{part}/{key}": value for key, value in row.items() if isinstance(value, (int, float)) and key != "step"}
        lists = {f"{part}/log_s": row["log_s"]} if "log_s" in row else {}
        with self.writing("tensorboard"):
            if self._events is None:
                from integration.records.event_file import EventFile  # noqa: PLC0415 (a second, which --help does not need)

                self._events = EventFile(self.path / "tensorboard", row["step"], self._options())
            self._events.add(row["step"], numbers, lists)
        for listener in self.listeners:
            listener(name, row)

    def _options(self) -> dict[str, bool | int | float | str]:
        """The run's options that are plain values; those of a group have its name in front."""
        flat: dict[str, Any] = {}
        for key, value in self.config().items():
            flat |= {f"{key}.{inner}": x for inner, x in value.items()} if isinstance(value, dict) else {key: value}
        return {key: value for key, value in flat.items() if isinstance(value, (bool, int, float, str))}

    def note(self, name: str, row: Row) -> None:
        """Add a line that belongs to no rollout: no `rewind` takes a torn one away. NotWritten as on a full disk."""
        self.write(name, "".join(json.dumps(each) + "\n" for each in [*self.rows(name), row]))

    def rewind(self, step: int) -> None:
        """Remove the lines after `step`: a resumed run writes them again. UserError for a line that no run has written."""
        for name in NEEDED:
            rows = self.rows(name)
            require_whole_lines(self.path / name, rows)
            self.write(name, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        found = (self.path / "checkpoints").glob("[0-9]*")
        return sorted((p for p in found if p.name.isdecimal() and p.is_dir()), key=lambda p: int(p.name))

    def newest_whole(self) -> Path | None:
        """The newest checkpoint whose files are those that were written; None if there is no checkpoint at all.

        Broken ones that are newer are named and set aside. UserError if all that have a state are broken.
        """
        for aside in (self.path / "checkpoints").glob(".*.old"):
            with self.writing("checkpoints"):
                recover(aside.with_name(aside.name.removeprefix(".").removesuffix(".old")))
        broken: dict[Path, str] = {}
        for checkpoint in reversed(self.checkpoints()):
            wrong = damage(checkpoint)
            if wrong is None and not has_state(checkpoint):
                broken[checkpoint] = model_alone(checkpoint)
            elif wrong is None:
                for path, what in broken.items():
                    aside = path.with_name(f"broken-{path.name}")
                    with self.writing(f"checkpoints/{aside.name}"):
                        remove(aside)
                        path.rename(aside)
                    print(f"checkpoint {path} is broken: {what}. It is now {aside.name}; going on from {checkpoint.name}")
                return checkpoint
            else:
                broken[checkpoint] = wrong
        if broken:
            causes = "; ".join(f"{path.name}: {what}" for path, what in broken.items())
            raise UserError(f"--resume: no checkpoint in {self.path} is whole: {causes}")
        return None

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a new folder, then `tidy`. Returns the folder.

        NotWritten if it cannot be written, such as on a full disk: the checkpoints before it are still there.
        """
        name = f"checkpoints/{step:06d}"

        def fill(folder: Path) -> None:
            write(folder)
            write_checksums(folder)

        try:
            replace_folder(self.path / name, fill)
        except ProcessLost:
            raise
        except Exception as error:  # torch, safetensors and orbax each report a full disk in their own way
            raise self.not_written(name, _reason(error)) from error
        self.tidy()
        return self.path / name

    def tidy(self) -> None:
        """Delete the oldest checkpoints beyond `keep_checkpoints`, and what a kill while one was written has left behind.

        Of those that stay, the states beyond `keep_states` go, once the newest has been read back from the disk.
        """
        surplus = self.checkpoints()[: -self.keep_checkpoints]
        for path in [*surplus, *(self.path / "checkpoints").glob(".*.tmp"), *(self.path / "checkpoints").glob(".*.old")]:
            with self.writing(f"checkpoints/{path.name}"):
                remove(path)
        spare = [path for path in self.checkpoints()[: -self.keep_states] if has_state(path)]
        if spare and damage(self.checkpoints()[-1]) is None:
            for path in spare:
                with self.writing(f"checkpoints/{path.name}"):
                    replace_folder(path, partial(_link_model, path))

    def close(self) -> None:
        """Give the folder free."""
        self._lock.release()


def has_state(checkpoint: Path) -> bool:
    """Whether a run can go on from a checkpoint: it is more than a model."""
    return any((checkpoint / name).exists() for name in STATE)


def model_alone(checkpoint: Path) -> str:
    """The sentence about a checkpoint without its state."""
    return (
        f"{checkpoint} is a model without the optimizer's state (--keep-states is how many keep it); start a new run from it "
        f"with --model {checkpoint}"
    )


def _link_model(checkpoint: Path, folder: Path) -> None:
    """The files of a checkpoint without its state, in a new folder: links, which take no space and no time."""
    folder.mkdir()
    for path in checkpoint.iterdir():
        if path.name not in (*STATE, CHECKSUMS):
            try:
                os.link(path, folder / path.name)
            except OSError:  # a file system without links
                shutil.copy(path, folder / path.name)
    write_checksums(folder)


def _reason(error: BaseException) -> str:
    """Why a write failed: the operating system's words, if they are among the causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


def _holds_something(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()
