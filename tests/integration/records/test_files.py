"""A picture is written whole: the old one stays until the new one is on the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from matplotlib import image
from matplotlib.figure import Figure

from integration.records.files import write_picture


def drawn(value: float) -> Figure:
    """A line at a height."""
    figure = Figure(figsize=(2.0, 1.5))
    figure.subplots().axhline(value)
    return figure


def test_the_old_picture_stays_where_the_new_one_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "curves.png"
    write_picture(path, drawn(1.0), dpi=50)
    old = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"curves\.png"):
            write_picture(path, drawn(2.0), dpi=50)
    assert path.read_bytes() == old
    write_picture(path, drawn(2.0), dpi=50)
    assert image.imread(path).shape == (75, 100, 4)
    assert path.read_bytes() != old


def test_the_same_picture_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_picture(tmp_path / name, drawn(1.0), dpi=50)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"Matplotlib" not in (tmp_path / "a.png").read_bytes()
