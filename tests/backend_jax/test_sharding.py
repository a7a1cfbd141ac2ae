"""Eight host devices: under NamedSharding and under shard_map, losses and log-probs are those of one device.

The devices must be asked for before JAX starts, hence the process of its own: tests/support/jax_programs/on_eight_devices.py.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.jax_programs import mesh_cases
from support.repository import PATHS, ROOT

pytestmark = pytest.mark.slow

EVERY_WAY = ["NamedSharding value", "NamedSharding gradient", "shard_map value", "shard_map gradient outside"]
EVERY_WAY += ["check_vma=False is four times too large"]
INSIDE = ["shard_map gradient inside", "shard_map second derivative", "is not vacuous"]
CLAIMS = [f"GSPO {claim}" for claim in EVERY_WAY]
CLAIMS += [f"{name} {claim}" for name in ("GSPO", "GSPO_TOKEN") for claim in INSIDE]
CLAIMS += [f"vocabulary {claim}" for claim in ("even", "empty, soft cap and bias", "uneven, entropies")]
CLAIMS += mesh_cases.CLAIMS


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the program printed."""
    path = os.pathsep.join(PATHS)
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    env = {**os.environ, "PYTHONPATH": path, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(ROOT / "tests/support/jax_programs/on_eight_devices.py")]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=500)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize("claim", CLAIMS)
def test_sharded_is_single(claim: str, said: list[str]) -> None:
    assert f"holds: {claim}" in said


def test_every_line_is_a_claim(said: list[str]) -> None:
    assert sorted(said) == sorted(f"holds: {claim}" for claim in CLAIMS)
