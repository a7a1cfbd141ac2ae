"""The questions of a task, drawn one after the other; drawing that takes long is seen to go on."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

QUIET = 1.5
"""Seconds after which progress is shown."""
EVERY = 30.0
"""Seconds between two lines where standard error is no terminal."""


def drawn(dataset: Any, name: str, wanted: int) -> Iterator[dict[str, Any]]:
    """The entries of a dataset, of which about `wanted` will be taken.

    Each is drawn in an empty folder: codeio runs programs for its questions, and some of them write files.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    began, said = time.monotonic(), -EVERY
    with (
        tqdm(total=wanted, desc=f"questions of {name}", unit="", delay=QUIET, leave=False, disable=not terminal) as bar,
        TemporaryDirectory() as elsewhere,
    ):
        for index in range(len(dataset)):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.chdir(elsewhere):  # bf prints a dot for every question
                entry = dataset[index]
            yield entry
            bar.update()
            spent = time.monotonic() - began
            if not terminal and spent > QUIET and spent - said > EVERY:
                said = spent
                left = spent / (index + 1) * max(0, wanted - index - 1)
                print(
                    f"drawing questions of {name}: {index + 1} of about {wanted}, {left:.0f} s to go",
                    file=sys.stderr,
                    flush=True,
                )
