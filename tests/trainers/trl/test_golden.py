"""TRL's own trainer takes the twenty reference updates with our loss: every number is within its budget."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from support.repository import ROOT

from integration.parity.comparison import compare
from integration.parity.reference import Run, Update

SCRIPT = ROOT / "tests" / "support" / "trainers" / "trl_golden.py"


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (1, ["--accumulation", "4"]),
        (2, ["--accumulation", "2", "--checkpointing"]),
        (2, ["--accumulation", "2", "--fsdp"]),
    ],
)
def test_the_reference_updates(tmp_path: Path, ranks: int, options: list[str]) -> None:
    command = [sys.executable]
    if ranks > 1:  # `accelerate launch` would start one process on a CPU
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'backends'}:{ROOT / 'tests'}"}
    subprocess.run([*command, str(SCRIPT), str(tmp_path), *options], check=True, env=environment, cwd=ROOT, capture_output=True)
    updates = [Update(**row) for row in json.loads((tmp_path / "updates.json").read_text())]
    found = compare(Run(updates, load_file(tmp_path / "parameters.safetensors")))
    assert found.ok, str(found)
    assert not found.missing
    assert sum(any(update.clipped) for update in updates) > 5, "the clip is at work"
