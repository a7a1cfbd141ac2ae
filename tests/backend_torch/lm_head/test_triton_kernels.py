"""The Triton kernels compute what plain torch computes: checked on a CPU, in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.repository import PATHS, ROOT

pytestmark = pytest.mark.slow

CHECKS = [
    "scores_are_float32_good",
    "scores_are_those_of_plain_torch",
    "gradient_tiles_are_those_of_plain_torch",
    "a_minus_infinite_bias_takes_a_token_out",
    "the_whole_loss_goes_through_the_kernels",
    "sequences_too_long_for_the_aligned_way_add_to_its_sums",
    "small_weights_do_not_underflow",
    "unsuitable_operands_go_through_plain_torch",
    "int32_tokens_are_tokens",
    "token_logp_is_bitwise_reproducible",
    "a_wrong_kernel_would_be_seen",
]


def python(*arguments: str, **variables: str) -> str:
    """What a fresh interpreter prints."""
    path = os.pathsep.join(PATHS)
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def reports() -> dict[str, str]:
    """By check: what failed, or nothing. The interpreter must be asked for before Triton is imported, hence a process."""
    pytest.importorskip("triton", reason="Triton has no wheel for this platform")
    lines = python(str(ROOT / "tests" / "support" / "lm_head" / "interpreted_kernels.py"), TRITON_INTERPRET="1").splitlines()
    return {report["check"]: report["failure"] for report in map(json.loads, lines)}


def test_every_check_ran(reports: dict[str, str]) -> None:
    assert list(reports) == CHECKS


@pytest.mark.parametrize("check", CHECKS)
def test_in_the_interpreter(reports: dict[str, str], check: str) -> None:
    assert not reports[check], reports[check]


LOSS = """
import sys
sys.modules['triton'] = None
import torch, gspo_torch
from gspo_core import GSPO, Padded
from gspo_torch.lm_head import two_pass

hidden, head = torch.ones(1, 2, 8, dtype=torch.bfloat16, requires_grad=True), torch.ones(4, 8, dtype=torch.bfloat16)
batch = torch.zeros(1, 2, dtype=torch.int64), None, torch.ones(1), Padded(torch.ones(1, 2) > 0)
loss = gspo_torch.linear_policy_loss(GSPO, hidden, head, *batch, on_policy=True, return_logp=True)
loss.value.backward()
print(two_pass.kernels is None, loss.logp.exp().tolist())
"""


def test_triton_is_optional() -> None:
    """Plain torch then: on a CPU it is that anyway."""
    without, numbers = python("-c", LOSS).split(" ", 1)
    assert json.loads(numbers) == [[0.25, 0.25]]
    assert without == "True"
