"""A model is made once for each recipe; no folder of the cache is ever half written."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs.broken_disk import Watched, disk, longest_file

from integration.on_torch.qwen3 import Qwen3Sizes, build_qwen3
from integration.options.errors import NotWritten, UserError
from integration.records.checksums import damage
from integration.records.files import create_folder, replace_folder, write_whole
from integration.shared import model_cache
from integration.shared.model_cache import cached_model
from integration.shared.pretrained import load_model

SIZES = Qwen3Sizes(vocabulary=16, layers=1, hidden=8, feed_forward=12, heads=2, key_value_heads=1, head=4)


class Factory:
    """Makes a model, and counts how often it was called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> tuple[Any]:
        self.calls += 1
        return (build_qwen3(SIZES, self.calls),)


def test_a_recipe_makes_one_model_and_another_recipe_another(tmp_path: Path) -> None:
    make, recipe = Factory(), {"seed": 0, "sizes": {"layers": 1, "hidden": 8}}
    first = cached_model(tmp_path, "tiny", recipe, make)
    assert cached_model(tmp_path, "tiny", {"sizes": {"hidden": 8, "layers": 1}, "seed": 0}, make) == first
    assert make.calls == 1
    other = cached_model(tmp_path, "tiny", {**recipe, "seed": 1}, make)
    assert make.calls == 2
    assert first != other
    expected, loaded = build_qwen3(SIZES, 1).state_dict(), load_model(str(first)).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in expected.items())
    assert not torch.equal(load_model(str(other)).lm_head.weight, loaded["lm_head.weight"])
    assert json.loads((first / "recipe.json").read_text()).items() >= recipe.items()


def test_another_version_of_torch_makes_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Factory()
    first = cached_model(tmp_path, "tiny", {}, make)
    monkeypatch.setattr(model_cache, "version", lambda _: "9.9")
    assert cached_model(tmp_path, "tiny", {}, make) != first
    assert make.calls == 2


def test_a_model_that_was_interrupted_is_not_in_the_cache(tmp_path: Path) -> None:
    class FullDisk:
        def save_pretrained(self, folder: Path) -> None:
            (folder / "config.json").write_text("{")
            raise OSError("no space left")

    with pytest.raises(NotWritten, match=r"^--cache-dir: .*tiny-\w{12} could not be written: no space left"):
        cached_model(tmp_path, "tiny", {}, lambda: (FullDisk(),))
    assert list(tmp_path.iterdir()) == []
    folder = cached_model(tmp_path, "tiny", {}, Factory())
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("size", [0, 100, 2000])
def test_a_cache_on_a_full_disk_is_named_and_holds_nothing(tmp_path: Path, size: int) -> None:
    """Safetensors writes without Python."""
    with longest_file(size), pytest.raises(NotWritten, match=r"^--cache-dir: .* could not be written: .*; make room"):
        cached_model(tmp_path, "tiny", {}, Factory())
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_found_out_before_the_model_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    make = Factory()
    with pytest.raises(NotWritten, match=r"^--cache-dir: .* could not be written: .*Not a directory"):
        cached_model(tmp_path / "file" / "cache", "tiny", {}, make)
    assert make.calls == 0


def damaged(content: bytes, how: str) -> bytes | None:
    """What a disk may give back in place of a file's content."""
    flipped = content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
    kinds = {"missing": None, "empty": b"", "half": content[: len(content) // 2], "one bit": flipped, "another": b"[]"}
    return kinds[how]


@pytest.mark.parametrize("how", ["missing", "empty", "half", "one bit", "another"])
def test_a_damaged_model_of_the_cache_is_named_and_elsewhere_it_loads_or_is_refused(tmp_path: Path, how: str) -> None:
    folder = cached_model(tmp_path, "tiny", {}, Factory())
    for path in [path for path in folder.iterdir() if path.name != "checksums.json"]:
        whole = path.read_bytes()
        content = damaged(whole, how)
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(UserError, match=rf"^--cache-dir: .* is broken: {path.name} .*; delete that folder"):
            cached_model(tmp_path, "tiny", {}, Factory())
        with suppress(UserError):
            load_model(str(folder))
        path.write_bytes(whole)
    assert cached_model(tmp_path, "tiny", {}, Factory()) == folder


def test_of_two_processes_that_make_the_same_folder_the_first_wins(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "model"

    def slower(path: Path) -> None:
        create_folder(folder, lambda other: (other / "first").touch())
        (path / "second").touch()

    create_folder(folder, slower)
    assert [path.name for path in folder.iterdir()] == ["first"]
    assert list(folder.parent.iterdir()) == [folder]


def test_whoever_looks_into_the_cache_finds_no_model_or_a_whole_one(tmp_path: Path) -> None:
    """At every moment while one is made, also when another process is faster; nothing else is left in the end."""

    def look() -> None:
        for folder in tmp_path.glob("tiny-*"):
            assert damage(folder) is None

    with disk(tmp_path, made=Watched(tmp_path, look)) as counted:
        first = cached_model(tmp_path, "tiny", {}, Factory())
    assert counted.changes > 10
    for at in range(1, counted.changes + 1, 3):
        shutil.rmtree(first)

        def faster() -> None:
            cached_model(tmp_path, "tiny", {}, Factory())

        with disk(tmp_path, made=Watched(tmp_path, faster, at)):
            assert cached_model(tmp_path, "tiny", {}, Factory()) == first
        look()
        assert list(tmp_path.iterdir()) == [first]


def test_a_folder_that_is_replaced_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "000010"

    def fill(path: Path) -> None:
        path.mkdir()
        (path / "new").touch()

    def interrupted(path: Path) -> None:
        fill(path)
        raise OSError("no space left")

    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(OSError, match="no space left"):
        replace_folder(folder, interrupted)
    assert [path.name for path in folder.iterdir()] == ["old"]
    replace_folder(folder, fill)
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_kill_at_any_rename_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """`stop`: the rename at which the process dies; 3 is after both."""
    folder = tmp_path / "000010"

    def fill(path: Path) -> None:
        path.mkdir()
        (path / "new").touch()

    folder.mkdir()
    (folder / "old").touch()
    rename, calls = os.replace, iter(range(1, 100))

    def dies(source: Path, target: Path) -> None:
        if next(calls) == stop:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(os, "replace", dies)
        replace_folder(folder, fill)

    def fails(_: Path) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        replace_folder(folder, fails)
    assert [path.name for path in folder.iterdir()] == ["new" if stop == 3 else "old"]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "page.html"
    write_whole(file, "old")

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            write_whole(file, "new")
    assert file.read_text() == "old"
    write_whole(file, "new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]
