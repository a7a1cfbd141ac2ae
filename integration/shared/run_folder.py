"""A run on disk: its configuration, its metrics, its checkpoints. Whatever stands here survives a kill.

config.json            what was asked for
metrics.jsonl          one line per rollout          (also as TensorBoard events under tensorboard/)
evaluations.jsonl      one line per evaluation
transcripts/           sampled answers, before and after
checkpoints/000010/    the framework's own: torch_checkpoint.py, jax_checkpoint.py
report.html
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from integration.shared.errors import UserError

Row = dict[str, Any]


class RunFolder:
    """One run's folder. Files are replaced whole or appended by the line, checkpoints are renamed into place."""

    def __init__(self, path: Path, *, keep_checkpoints: int) -> None:
        self.path = path
        self.keep_checkpoints = keep_checkpoints
        self._writer: SummaryWriter | None = None

    def create(self, config: Row) -> None:
        """A new folder; UserError if there is a run in it already."""
        if (self.path / "config.json").exists():
            raise UserError(f"--run-dir: {self.path} holds a run already; go on with --resume {self.path}, or name another")
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        (self.path / "transcripts").mkdir(exist_ok=True)
        self.write_json("config.json", config)

    def config(self) -> Row:
        """The configuration the run was started with; UserError if this is no run."""
        try:
            return dict(json.loads((self.path / "config.json").read_text()))
        except (OSError, ValueError) as error:
            raise UserError(f"--resume: {self.path} is not the folder of a run: {error}") from error

    def write_json(self, name: str, content: Any) -> None:
        """Replace a file by `content`, never leaving half of it."""
        temporary = self.path / f".{name.replace('/', '-')}.tmp"
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        os.replace(temporary, self.path / name)

    def rows(self, name: str) -> list[Row]:
        """The lines of a .jsonl file; a torn last line (the process was killed while writing) is left out."""
        file = self.path / name
        lines = file.read_text().split("\n") if file.exists() else []
        return [json.loads(line) for line in lines[:-1]]

    def append(self, name: str, row: Row) -> None:
        """Add a line, and its numbers to TensorBoard."""
        with (self.path / name).open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self._writer is None:
            self._writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=row["step"])
        for key, value in row.items():
            if isinstance(value, (int, float)) and key != "step":
                self._writer.add_scalar(f"{name.removesuffix('.jsonl')}/{key}", value, row["step"])

    def rewind(self, step: int) -> None:
        """Forget what was written after `step`, so that a resumed run writes it again."""
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            self._replace_rows(name, (row for row in self.rows(name) if row["step"] <= step))

    def _replace_rows(self, name: str, rows: Iterable[Row]) -> None:
        temporary = self.path / f".{name}.tmp"
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(temporary, self.path / name)

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(p for p in (self.path / "checkpoints").glob("[0-9]*") if p.is_dir())

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a folder under a temporary name, rename it, then drop the oldest beyond `keep_checkpoints`."""
        final = self.path / "checkpoints" / f"{step:06d}"
        temporary = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        write(temporary)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        for old in self.checkpoints()[: -self.keep_checkpoints]:
            shutil.rmtree(old)
        return final

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._writer is not None:
            self._writer.close()
