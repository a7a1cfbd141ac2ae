"""How tests run the training scripts: as a person does, on a Qwen3 of a few thousand parameters made from a config."""

from __future__ import annotations

from support.repository import ROOT
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TINY = [
    *("--model", "small", "--task", "count_bits", "--task-args", "min_n=1", "max_n=63", "--train-size", "40"),
    *("--warm-up.target", "0.2", "--warm-up.hidden", "32", "--warm-up.layers", "2", "--warm-up.check-every", "10"),
    *("--eval-prompts", "10", "--eval-samples", "2", "--prompts-per-rollout", "4", "--group-size", "4"),
    *("--max-new-tokens", "4", "--threads", "1", "--lr", "1e-3", "--clip-low", "0.02", "--clip-high", "0.03"),
]


def command(cache: Path, *options: str, script: str = "train_torch.py") -> list[str]:
    """The script's command line."""
    return [sys.executable, str(ROOT / "integration" / script), "--cache-dir", str(cache), *options]


def environment() -> dict[str, str]:
    """The caller's environment, with the packages of this checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")]), "HF_HUB_OFFLINE": "1"}


def run(cache: Path, *options: str, script: str = "train_torch.py") -> subprocess.CompletedProcess[str]:
    """Run it to the end."""
    line = command(cache, *options, script=script)
    return subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=240, check=False)


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Lines of a run's file without the wall-clock times."""
    lines = (folder / name).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("seconds")} for line in lines]
