"""Printing never ends a program: not a reader that has gone, a full disk, a closed stream or a terminal of few characters."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from integration.options.streams import steady_streams


def printed(encoding: str, *texts: str) -> bytes:
    """What arrives at a pipe whose other end has this encoding."""
    reader, writer = os.pipe()
    with open(writer, "w", encoding=encoding) as pipe, patch.object(sys, "stdout", pipe), steady_streams():
        for text in texts:
            print(text)
    with open(reader, "rb") as stream:
        return stream.read()


@given(text=st.text(max_size=40), encoding=st.sampled_from(["ascii", "latin-1", "utf-8"]))
def test_any_text_is_printed_whole_or_as_its_escapes(text: str, encoding: str) -> None:
    assert printed(encoding, text) == text.encode(encoding, "backslashreplace") + b"\n"


def pipe_into_nobody() -> int:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_disk() -> int:
    """A file that cannot grow."""
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("make", [pipe_into_nobody, full_disk])
@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_program_goes_on_without_its_reader(make: Callable[[], int], unbuffered: bool) -> None:
    binary = io.FileIO(make(), "w")
    stream = io.TextIOWrapper(binary if unbuffered else io.BufferedWriter(binary), write_through=unbuffered)  # type: ignore[type-var]  # a raw stream
    with patch.multiple(sys, stdout=stream, stderr=stream), steady_streams():
        for _ in range(3):
            print("step", "→" * 10_000)
            print("trouble", file=sys.stderr, flush=True)
    stream.close()  # nothing was left in it that could fail now


def test_streams_that_the_shell_has_closed_are_printed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with steady_streams():
        print("step")
        print("trouble", file=sys.stderr)
    assert sys.stdout is None
