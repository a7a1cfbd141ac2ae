"""How tests run the training scripts: as a person does, on a Qwen3 of a few thousand parameters made from a config."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from support.repository import PATHS, ROOT
from support.runs.forked import Done, Started

from integration.options.command_line import command_line

TINY = [
    *("--model", "small", "--task", "count_bits", "--task-args", "min_n=1", "max_n=63", "--train-size", "40"),
    *("--warm-up.target", "0.2", "--warm-up.hidden", "32", "--warm-up.layers", "2", "--warm-up.check-every", "10"),
    *("--eval-prompts", "10", "--eval-samples", "2", "--prompts-per-rollout", "4", "--group-size", "4"),
    *("--max-new-tokens", "4", "--threads", "1", "--lr", "1e-3", "--clip-low", "0.02", "--clip-high", "0.03"),
]
PRETRAINED = [*TINY[2:9], "--eval-prompts", "10"]
"""What is left of them for a model that is not made here."""


def command(cache: Path, *options: str, script: str = "train_torch.py") -> list[str]:
    """The script's command line."""
    return [sys.executable, str(ROOT / "integration" / script), "--cache-dir", str(cache), *options]


def environment() -> dict[str, str]:
    """The caller's environment, with the packages of this checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS), "HF_HUB_OFFLINE": "1"}


@contextmanager
def compiled_once(folder: Path) -> Iterator[None]:
    """Processes that are started inside, one after the other, share what JAX compiles: it is the same program."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("JAX_COMPILATION_CACHE_DIR", str(folder))
        patched.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patched.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        yield


def started(cache: Path, *options: str, script: str = "train_torch.py", executing: bool = False) -> Started:
    """Start it in a process of its own; `executing`: for a task that runs what is answered."""
    return Started(script, ["--cache-dir", str(cache), *options], environment(), executing=executing)


def run(cache: Path, *options: str, script: str = "train_torch.py", executing: bool = False) -> Done:
    """Run it to the end in a process of its own."""
    return started(cache, *options, script=script, executing=executing).done()


def refusal(cache: Path, *options: str, script: str = "train_torch.py") -> str:
    """What the script prints about wrong options, in this process: exit status 2, a sentence and no traceback."""
    module = import_module(f"integration.{script.removesuffix('.py')}")
    line = command(cache, *options, script=script)[1:]
    with patch.object(sys, "argv", line), redirect_stderr(io.StringIO()) as printed, pytest.raises(SystemExit) as ended:
        sys.exit(command_line(module.train, module.__doc__))
    assert ended.value.code == 2, printed.getvalue()
    assert "Traceback" not in printed.getvalue()
    return printed.getvalue()


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Lines of a run's file without the wall-clock times."""
    lines = (folder / name).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("seconds")} for line in lines]
