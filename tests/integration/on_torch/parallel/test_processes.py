"""A run of several processes: one that dies ends all, with a sentence, and any number of processes goes on from there."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.runs.kills_of_ranks import Killer
from support.runs.scripts import TINY, refusal


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_another_number_of_processes_goes_on(tmp_path: Path) -> None:
    """From FSDP2 on two to one: the same rollouts, and weights that differ by rounding alone."""
    killer = Killer(tmp_path, seed=1)
    killer.kill(1, "run", parts=[(2, "fsdp"), (1, "ddp")])
    assert killer.starts == ["1", "2 ddp", "2 fsdp", "1"]
    assert killer.kills == 1, "the run was finished before it could be killed"


@pytest.mark.parametrize("option", ["--parallel", "--context-parallel", "--vocabulary-parallel"])
def test_options_of_several_processes_need_torchrun(tmp_path: Path, option: str) -> None:
    value = "fsdp" if option == "--parallel" else "2"
    assert f"{option}: needs several processes; start the script as `torchrun --nproc-per-node" in refusal(
        tmp_path, *TINY, option, value
    )


def test_processes_that_share_a_response_divide_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert "2 processes share a response, and the 3 that torchrun started are no multiple" in refusal(
        tmp_path, *TINY, "--context-parallel", "2"
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    noisy = ("--model", "small-moe", "--router-noise", "0.1")
    assert "--router-noise: works in a run of one process, and torchrun started 2" in refusal(tmp_path, *TINY[2:], *noisy)
