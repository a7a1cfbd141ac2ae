"""Training on a mesh of eight host devices is training on one: updates, samples, checkpoints, a stop and another mesh after it.

The devices must be asked for before JAX starts, hence the process of its own: tests/support/jax_programs/training_on_meshes.py.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.repository import PATHS, ROOT

from integration.on_jax.mesh import mesh_of
from integration.options.errors import UserError

pytestmark = pytest.mark.slow

MESHES = ["1 × 2", "2 × 2", "3 × 1", "2 × 4"]
OF_UPDATES = ["parameters in float64", "clip decisions", "log s is 0 before the first update", "all lies where the rule says"]
CLAIMS = [f"{mesh}: {claim}" for mesh in MESHES for claim in OF_UPDATES]
CLAIMS += ["shares of the devices", "updates are not vacuous", "more devices than there are are refused"]
CLAIMS += ["the golden twenty updates", "log s is 0 at the start of each rollout"]
CLAIMS += ["rows of any lengths, with a KL penalty", "rows are not vacuous"]
CLAIMS += ["a mixture of experts", "a mixture's matrices are halved, its router is not"]
CLAIMS += ["3 × 1: samples", "2 × 4: samples", "greedy samples", "samples are not vacuous"]
CLAIMS += ["noise of a row does not depend on the number of rows"]
CLAIMS += ["a stop in the second of three rollouts", "resumed on the same mesh, bit for bit", "the trajectory is not vacuous"]
CLAIMS += ["restored on 1 × 1, bit for bit", "restored on 8 × 1, bit for bit"]
CLAIMS += ["resumed on 8 × 1: the same answers", "resumed on 8 × 1: the same end"]


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the program printed, without its notes."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    flags += " --xla_cpu_collective_call_terminate_timeout_seconds=300"  # of a busy machine; the default is 40
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "tests/support/jax_programs/training_on_meshes.py")]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=500)
    assert result.returncode == 0, result.stderr
    return [line for line in result.stdout.splitlines() if line.startswith(("holds", "FAILS"))]


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_mesh_is_one_device(claim: str, said: list[str]) -> None:
    assert f"holds: {claim}" in said


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would write the run's folder."""
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(UserError, match=r"^--data-parallel: the JAX script is one process for all devices, JAX has 2"):
        mesh_of(1, 1)


def test_every_line_is_a_claim(said: list[str]) -> None:
    assert sorted(said) == sorted(f"holds: {claim}" for claim in CLAIMS)
