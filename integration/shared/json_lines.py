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
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""One line: a JSON object."""


def read_rows(file: Path) -> list[Row]:
    """The complete lines of a file; none if there is no file. A last line without its newline is left out."""
    lines = file.read_bytes().split(b"\n") if file.exists() else []
    return [json.loads(line) for line in lines[:-1]]


def append_row(file: Path, row: Row) -> None:
    """Append one line. A file that may end in a torn line needs `drop_torn_line` first."""
    append_line(file, json.dumps(row))


def append_line(file: Path, line: str) -> None:
    """Append a row that is JSON text already."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


def drop_torn_line(file: Path) -> None:
    """Cut a torn last line off, so that the next row does not continue it."""
    if file.exists():
        whole = file.read_bytes()
        file.write_bytes(whole[: whole.rfind(b"\n") + 1])
