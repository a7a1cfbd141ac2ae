"""Files of JSON lines that survive a kill: rows are appended one by one, and a torn last line does not count.

>>> from pathlib import Path
>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     file = Path(folder, "metrics.jsonl")
...     append_row(file, {"step": 1})
...     _ = file.open("a").write('{"step": 2, "rew')       # the process was killed here
...     read_rows(file)
[{'step': 1}]
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from integration.options.errors import UserError
from integration.records.files import named

Row = dict[str, Any]
"""One line: a JSON object."""

BOM = b"\xef\xbb\xbf"
"""What some editors put in front of a file that they save."""


def read_rows(file: Path) -> list[Row]:
    """The complete lines of a file; none if there is no file. A last line without its newline is left out.

    UserError if a complete line is not a JSON object: only a torn last line is what a kill leaves behind.
    """
    lines = file.read_bytes().removeprefix(BOM).split(b"\n") if file.exists() else []
    return [_row(file, number, line) for number, line in enumerate(lines[:-1], start=1)]


def _row(file: Path, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: line {number} is damaged ({error}); mend it, or restore the file from a copy") from error
    if not isinstance(row, dict):
        raise UserError(f"{file}: line {number} is damaged: expected a JSON object, got {line.decode()[:40]!r}")
    return row


def append_row(file: Path, row: Row) -> None:
    """Append one line. A file that may end in a torn line needs `drop_torn_line` first."""
    append_line(file, json.dumps(row))


def append_line(file: Path, line: str) -> None:
    """Append a row that is JSON text already; it is on the disk when this returns."""
    with named(file), file.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def drop_torn_line(file: Path) -> None:
    """Cut a torn last line off, so that the next row does not continue it. A kill during the call loses no other line."""
    if file.exists():
        whole = file.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            os.truncate(file, end)
