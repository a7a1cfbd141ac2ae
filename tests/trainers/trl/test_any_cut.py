"""A step is the same, however its responses are cut into micro-batches and spread over ranks, with and without empty ones."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.repository import ROOT
from support.trainers.trl_runs import OwnAdvantages, logged, ours, parameters

from gspo_core.objectives import DAPO, GSPO, Objective

SCRIPT = ROOT / "tests" / "support" / "trainers" / "trl_runs.py"


def spread(tmp_path: Path, ranks: int, **options: Any) -> dict[str, Any]:
    """Parameters after a run on several processes."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'backends'}:{ROOT / 'tests'}"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", str(SCRIPT)]
    out = tmp_path / f"{ranks}.safetensors"
    subprocess.run([*launcher, str(out), json.dumps(options)], check=True, env=environment, cwd=ROOT, capture_output=True)
    return load_file(out)


@pytest.mark.parametrize(("name", "objective"), [("GSPO", GSPO), ("DAPO", DAPO)])
def test_eight_micro_batches_or_ranks(tmp_path: Path, name: str, objective: Objective) -> None:
    whole = parameters(ours(objective, OwnAdvantages, empty=True))
    runs = {
        "8 × 1": parameters(ours(objective, OwnAdvantages, empty=True, accumulation=8)),
        "4 × 2": spread(tmp_path, 2, objective=name, empty=True, accumulation=4),
        "2 × 4": spread(tmp_path, 4, objective=name, empty=True, accumulation=2),
    }
    still = parameters(ours(objective, OwnAdvantages, empty=True, lr=0.0))
    assert max(float(np.abs(whole[key] - still[key]).max()) for key in whole) > 0.02
    for cut, found in runs.items():
        for key, expected in whole.items():
            np.testing.assert_allclose(found[key], expected, atol=2e-6, rtol=2e-5, err_msg=f"{cut}: {key}")


@pytest.mark.parametrize("objective", [GSPO, DAPO])
def test_each_step_is_divided_by_its_own_responses_with_a_token(objective: Objective) -> None:
    """One response in five is empty, and steps have different numbers of responses and tokens."""
    trained = ours(objective, OwnAdvantages, empty=True, accumulation=2)
    counted = logged(trained, "gspo/sequences")
    assert len(set(counted)) > 1
    assert all(count < 16 for count in counted)
    np.testing.assert_allclose(logged(trained, "loss"), logged(trained, "gspo/loss"), rtol=1e-5)
