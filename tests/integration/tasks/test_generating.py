"""Drawing questions leaves nothing behind in the working folder, whatever a generator writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.tasks.generating import drawn
from integration.tasks.task import load_task


class Writing:
    """A generator that runs programs, as codeio does: they write files into the working folder, print, and some fail."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, str]:
        print("a program at work")
        Path(f"{index}.csv").write_text("a,b")
        if index == 3:
            raise ValueError("a program that fails")
        return {"question": f"{index}?", "answer": Path(f"{index}.csv").read_text()}


def test_files_that_a_generator_writes_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    drawing = drawn(Writing(), "writing", 3)
    for index in range(3):
        assert next(drawing) == {"question": f"{index}?", "answer": "a,b"}
        assert Path.cwd() == tmp_path, "between two questions, too, when the caller is at work"
    with pytest.raises(ValueError, match="a program that fails"):
        next(drawing)
    assert Path.cwd() == tmp_path
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""


def test_the_folder_is_gone_when_enough_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    drawing = drawn(Writing(), "writing", 3)
    next(drawing)
    assert len(list(tmp_path.iterdir())) == 1
    drawing.close()  # type: ignore[attr-defined]  # it is a generator
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_task_is_gone_however_its_loading_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A traceback that somebody keeps, such as pytest, keeps what was being drawn with it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    load_task("count_bits", [], seed=0, train_size=4, held_out_size=2)
    assert not list(tmp_path.iterdir())
    seen = []

    def problem_of(*_: object) -> None:
        seen.extend(tmp_path.iterdir())
        raise RuntimeError("in the middle of it")

    monkeypatch.setattr("integration.tasks.splitting.problem_of", problem_of)
    with pytest.raises(RuntimeError, match="in the middle of it") as kept:
        load_task("count_bits", [], seed=0, train_size=4, held_out_size=2)
    assert len(seen) == 1
    assert not list(tmp_path.iterdir()), kept
