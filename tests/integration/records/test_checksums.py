"""Whatever happens to a file of a checkpoint afterwards is noticed, and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integration.records.checksums import NAME, damage, write_checksums

CONTENT = {"model.safetensors": bytes(range(256)) * 4, "optimizer/d/0": b"moments", "optimizer/empty": b"", "state.json": b"{}"}


def finished(folder: Path) -> Path:
    """A folder with files in folders, and their checksums."""
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_checksums(folder)
    return folder


@given(name=st.sampled_from([n for n, content in CONTENT.items() if content]), data=st.data())
def test_one_other_bit_anywhere_is_noticed(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    folder = finished(tmp_path_factory.mktemp("checkpoint"))
    assert damage(folder) is None
    content = bytearray(CONTENT[name])
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).write_bytes(content)
    assert damage(folder) == f"{name} has other bytes than were written"


def test_checksums_can_be_written_again(tmp_path: Path) -> None:
    (finished(tmp_path) / "state.json").write_bytes(b"another")
    write_checksums(tmp_path)
    assert damage(tmp_path) is None


@pytest.mark.parametrize("name", [*CONTENT, NAME])
@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] or b"\0"),
        lambda path: path.write_bytes(b"\xff" * 9),
        lambda path: path.unlink() or path.mkdir(),
    ],
    ids=["gone", "halved", "overwritten", "a folder"],
)
def test_a_file_that_is_gone_cut_or_replaced_is_named(tmp_path: Path, name: str, harm: Callable[[Path], object]) -> None:
    folder = finished(tmp_path)
    harm(folder / name)
    found = damage(folder)
    assert found is not None
    assert found.startswith(name)


@pytest.mark.parametrize("content", ["{}", "[]", '{"state.json": 3}', '{"state.json": ["x", "y"]}', "3", "null"])
def test_checksums_that_say_nothing_vouch_for_nothing(tmp_path: Path, content: str) -> None:
    (finished(tmp_path) / NAME).write_text(content)
    assert str(damage(tmp_path)).startswith(NAME)
