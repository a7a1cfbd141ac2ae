"""The run's folder as the processes see it that do not write it: what they would have written, they remember."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from integration.records.json_lines import Row
from integration.records.run_folder import RunFolder


class FollowingFolder(RunFolder):
    """Process 0 writes the files; in the other processes the same lines are added to memory, so that all decide alike."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, keep_checkpoints=1)
        self._rows: dict[str, list[Row]] = {}
        self._checkpoints: list[Path] = []

    def follow(self, rows: dict[str, list[Row]], checkpoints: list[Path]) -> None:
        """Start with the lines and checkpoints that process 0 has."""
        self._rows, self._checkpoints = rows, checkpoints

    def rows(self, name: str) -> list[Row]:
        """The lines so far."""
        return list(self._rows.get(name, []))

    def append(self, name: str, row: Row) -> None:
        """Remember a line."""
        self._rows.setdefault(name, []).append(row)

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return list(self._checkpoints)

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> Path:
        """Take part in writing: `write` learns from process 0 where to."""
        path = self.path / f"checkpoints/{step:06d}"
        write(path)
        self._checkpoints.append(path)
        return path

    def write(self, name: str, content: str | bytes) -> Path:
        """Nothing."""
        return self.path / name

    def create(self, config: Row) -> None:
        """Nothing."""

    def note(self, name: str, row: Row) -> None:
        """Nothing."""

    def rewind(self, step: int) -> None:
        """Nothing."""

    def tidy(self) -> None:
        """Nothing."""

    def read_json(self, name: str) -> Any:
        """Files are read by process 0."""
        raise NotImplementedError(name)
