"""The script with TRL: trains, evaluates before and after, and says what is wrong in one sentence."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.repository import PATHS, ROOT

from gspo_core import GSPO
from gspo_core.objectives import FixedLength
from integration.on_trl import run
from integration.on_trl.run import arguments, task_of
from integration.options.choices import CLIP_RANGES, OBJECTIVES
from integration.options.errors import UserError
from integration.parity.reference import START
from integration.rewards.worker import Worker
from integration.train_trl import Options, train

SCRIPT = ROOT / "integration" / "train_trl.py"
WORDS = ["--task-args", "min_word_len=2", "max_word_len=5", "--model", str(START), "--max-new-tokens", "7"]


def command(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it."""
    given = [*WORDS, "--run-dir", str(folder / "run"), "--cache-dir", str(folder / "cache"), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}
    return subprocess.run([sys.executable, str(SCRIPT), *given], capture_output=True, text=True, check=False, env=environment)


def test_two_rollouts(tmp_path: Path) -> None:
    sizes = ["--rollouts", "2", "--prompts-per-rollout", "4", "--group-size", "4", "--micro-batches", "2", "--lr", "1e-3"]
    done = command(tmp_path, *sizes, "--eval-prompts", "20", "--train-size", "400")
    assert done.returncode == 0, done.stderr[-2000:]
    before, after = json.loads((tmp_path / "run" / "evaluations.json").read_text())
    assert len(before["sampled"]) == 20
    assert before != after
    assert "% of held-out questions, gain" in done.stdout
    assert list((tmp_path / "run").glob("checkpoint-*/model.safetensors")), "a checkpoint of TRL"


def test_every_preset_has_its_own_clip_range_or_none() -> None:
    """As in train_torch.py, whose options these are."""
    assert arguments(Options()).objective == GSPO.with_clip(0.03, 0.04)
    for name, preset in OBJECTIVES.items():
        if name not in CLIP_RANGES:
            # Dr. GRPO's constant length is that of the longest response.
            expected = replace(preset, reduction=FixedLength(16)) if name == "dr-grpo" else preset
            assert arguments(Options(objective=name)).objective == expected
    with pytest.raises(UserError, match=r"^--clip-low: --objective sapo has no clip range"):
        arguments(Options(objective="sapo", clip_low=0.1))


def test_an_answer_may_take_as_long_to_judge_as_the_option_says() -> None:
    small = Options(verifier_seconds=0.25, train_size=400, eval_prompts=20)
    verifier = task_of(small.base).verifier
    assert isinstance(verifier, Worker)
    assert verifier.limits.seconds == 0.25


def test_a_wrong_option_does_not_wait_for_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "integration.on_trl.run", None)  # an import of it would raise
    with pytest.raises(UserError, match=r"^--verifier-seconds: expected"):
        train(Options(verifier_seconds=0.0))
    with pytest.raises(ImportError):  # the guard: options without a fault do go on to it
        train(Options())


def test_threads_are_this_process_s_share_of_the_idle_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    for idle, ranks, expected in ((8, 1, 8), (1, 1, 1), (6, 2, 3), (2, 4, 1)):
        monkeypatch.setattr(run, "free_cores", lambda idle=idle: idle)
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        assert run.threads_of(Options().base) == expected
        assert run.threads_of(Options(threads=5).base) == 5
    with pytest.raises(UserError, match=r"^--threads: expected at least 1"):
        train(Options(threads=0))


def test_sizes_that_do_not_divide(tmp_path: Path) -> None:
    done = command(tmp_path, "--prompts-per-rollout", "3", "--group-size", "3")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: --prompts-per-rollout: 9 responses do not divide into 4 mini-batches"
    )
