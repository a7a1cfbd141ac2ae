"""Every complete line of a file of JSON lines is read, wherever the process that wrote it was killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integration.options.errors import UserError
from integration.records.json_lines import append_line, append_row, drop_torn_line, read_rows

ROWS = [{"step": 1, "text": "ä\n☃"}, {"step": 2, "values": [0.5, None]}, {"step": 3}]
WHOLE = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
ENDS = [i + 1 for i, byte in enumerate(WHOLE) if byte == ord("\n")]


@given(cut=st.integers(0, len(WHOLE)))
def test_a_file_cut_anywhere_holds_its_complete_lines_and_can_be_continued(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    """Also in the middle of a character of several bytes."""
    file = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    file.write_bytes(WHOLE[:cut])
    complete = ROWS[: sum(end <= cut for end in ENDS)]
    assert read_rows(file) == complete
    drop_torn_line(file)
    assert read_rows(file) == complete
    append_row(file, {"step": 4})
    append_line(file, '{"step": 5}')
    assert read_rows(file) == [*complete, {"step": 4}, {"step": 5}]


def test_a_whole_file_is_not_written_to(tmp_path: Path) -> None:
    """Whoever rewrites a file loses all of it if the process dies between the truncation and the write."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(WHOLE)
    file.chmod(0o444)
    before = file.stat()
    drop_torn_line(file)
    assert (file.stat().st_mtime_ns, file.stat().st_ino, file.read_bytes()) == (before.st_mtime_ns, before.st_ino, WHOLE)


def test_a_file_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert read_rows(file) == []
    drop_torn_line(file)
    assert not file.exists()


@pytest.mark.parametrize("damaged", [b'{"step": ', b"[2]", b"", b"\xff\x00", b'{"step": 2}{"step": 3}'])
def test_a_damaged_line_that_is_complete_is_named(tmp_path: Path, damaged: bytes) -> None:
    """No kill leaves one behind: to drop it silently would lose what somebody has to look at."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"step": 1}\n' + damaged + b'\n{"step": 4}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl: line 2 is damaged"):
        read_rows(file)


def test_a_byte_order_mark_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + WHOLE)
    assert read_rows(file) == ROWS
