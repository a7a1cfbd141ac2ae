"""A run on disk: its configuration, metrics and checkpoints. What has been written here survives a kill.

config.json            the options of the run
metrics.jsonl          one line per rollout          (also as TensorBoard events under tensorboard/)
evaluations.jsonl      one line per evaluation
transcripts/           sampled answers, before and after
checkpoints/000010/    in the framework's format: on_torch/checkpoint.py, on_jax/checkpoint.py
report.html
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from integration.shared.errors import UserError
from integration.shared.files import replace_folder, write_whole
from integration.shared.json_lines import Row, append_row, read_rows


class RunFolder:
    """One run's folder. Files are replaced whole or appended by the line, checkpoints are renamed into place."""

    def __init__(self, path: Path, *, keep_checkpoints: int) -> None:
        self.path = path
        self.keep_checkpoints = keep_checkpoints
        self._writer: Any = None

    def create(self, config: Row) -> None:
        """Make the folder; UserError if it holds a run already."""
        if (self.path / "config.json").exists():
            raise UserError(
                f"--run-dir: {self.path} holds a run already; continue it with --resume {self.path}, or name another folder"
            )
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        (self.path / "transcripts").mkdir(exist_ok=True)
        self.write_json("config.json", config)

    def config(self) -> Row:
        """The options that the run was started with; UserError if this is not the folder of a run."""
        try:
            return dict(json.loads((self.path / "config.json").read_text()))
        except (OSError, ValueError) as error:
            raise UserError(f"--resume: {self.path} is not the folder of a run: {error}") from error

    def write_json(self, name: str, content: Any) -> None:
        """Replace a file by `content`; it is never half written."""
        write_whole(self.path / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def rows(self, name: str) -> list[Row]:
        """The complete lines of a .jsonl file."""
        return read_rows(self.path / name)

    def append(self, name: str, row: Row) -> None:
        """Append a line, and add its numbers to TensorBoard."""
        append_row(self.path / name, row)
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (imports torch, which --help does not need)

            self._writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=row["step"])
        for key, value in row.items():
            if isinstance(value, (int, float)) and key != "step":
                self._writer.add_scalar(f"{name.removesuffix('.jsonl')}/{key}", value, row["step"])

    def rewind(self, step: int) -> None:
        """Remove the lines after `step`: a resumed run writes them again."""
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            kept = [row for row in self.rows(name) if row["step"] <= step]
            write_whole(self.path / name, "".join(json.dumps(row) + "\n" for row in kept))

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(p for p in (self.path / "checkpoints").glob("[0-9]*") if p.is_dir())

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a new folder, then delete the oldest checkpoints beyond `keep_checkpoints`. Returns the folder."""
        final = self.path / "checkpoints" / f"{step:06d}"
        replace_folder(final, write)
        for old in self.checkpoints()[: -self.keep_checkpoints]:
            shutil.rmtree(old)
        return final

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._writer is not None:
            self._writer.close()
