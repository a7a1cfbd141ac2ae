"""The JAX script, as a person runs it: it trains, it can be killed and resumed exactly, it refuses another script's runs."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from support.runs import scripts as script_runs
from support.runs.kills import Killer
from support.runs.scripts import TINY, refusal, rows

from integration.records.checksums import write_checksums

pytestmark = pytest.mark.slow

started = partial(script_runs.started, script="train_jax.py")
run = partial(script_runs.run, script="train_jax.py")
WITH_KL = [*TINY, "--kl", "token", "--kl-coefficient", "0.05"]
"""A run that a resumed one has to load its reference policy for, anew."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the cache of warmed-up models that all runs share."""
    folder = tmp_path_factory.mktemp("training-jax")
    with script_runs.compiled_once(folder / "compiled"):
        yield folder


@pytest.fixture(scope="module")
def killer(workplace: Path) -> Killer:
    """Runs of six rollouts, the first of them to its end."""
    return Killer("train_jax", workplace, seed=1, rollouts=6, options=[*WITH_KL, "--checkpoint-every", "2"])


@pytest.fixture(scope="module")
def finished(killer: Killer) -> Path:
    """A run to its end."""
    return killer.undisturbed


def test_a_run_moves_the_ratio_clips_and_leaves_what_a_person_looks_for(finished: Path) -> None:
    metrics = rows(finished)
    assert [row["step"] for row in metrics] == list(range(1, 7))
    assert all(math.isfinite(row["loss"]) and 0 <= row["clip_fraction"] <= 1 for row in metrics)
    assert max(row["max_abs_log_s"] for row in metrics) > 1e-4
    assert metrics[-1]["kl"] > metrics[0]["kl"] > 0
    assert any(0 < row["clip_fraction"] < 1 for row in metrics)
    assert all(row["by_mini_batch"][0] == {"clip_fraction": 0.0, "log_s_rms": 0.0} for row in metrics)
    assert any(row["by_mini_batch"][3]["log_s_rms"] > 0 for row in metrics)
    for name in ("config.json", "evaluations.jsonl", "report.html", "report.png", "transcripts/after-000006.json"):
        assert (finished / name).stat().st_size > 0, name
    assert [p.name for p in sorted((finished / "checkpoints").iterdir())] == ["000004", "000006"]


def test_a_run_that_is_killed_and_resumed_ends_as_the_undisturbed_one(killer: Killer) -> None:
    """At a random moment; tests/support/runs/kills.py takes any number of kills."""
    killer.kill(1)
    assert killer.different == []
    assert killer.kills == 1


def test_ctrl_c_saves_and_can_be_resumed(workplace: Path, finished: Path) -> None:
    folder = workplace / "interrupted"
    options = [*WITH_KL, "--rollouts", "6", "--checkpoint-every", "100", "--run-dir", str(folder)]
    process = started(workplace / "cache", *options)
    deadline = time.monotonic() + 200
    metrics = folder / "metrics.jsonl"  # empty until the first rollout is over: the run then listens to signals
    while not (metrics.exists() and metrics.read_text()):
        assert process.is_running()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send(signal.SIGINT)
    interrupted = process.done()
    assert interrupted.returncode == 130
    assert f"--resume {folder}" in interrupted.stdout
    assert len(rows(folder)) < 6, "interrupted too late to prove anything"
    done = run(workplace / "cache", "--resume", str(folder))
    assert done.returncode == 0, done.stderr
    assert rows(folder) == rows(finished)


def test_a_checkpoint_is_a_folder_that_transformers_reads(finished: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 (only this test wants it)

    folder = finished / "checkpoints" / "000006"
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.model_type == "qwen3"
    assert AutoTokenizer.from_pretrained(folder).eos_token_id is not None


def test_a_run_of_the_other_script_is_refused(workplace: Path, finished: Path) -> None:
    folder = workplace / "of-torch"
    shutil.copytree(finished, folder)
    (folder / "checkpoints" / "000006" / "state.json").rename(folder / "checkpoints" / "000006" / "trainer.pt")
    write_checksums(folder / "checkpoints" / "000006")
    said = refusal(workplace / "cache", "--resume", str(folder), "--rollouts", "7", script="train_jax.py")
    assert "was not written by the JAX script" in said
    saved = json.loads((folder / "config.json").read_text())
    assert saved["rollouts"] == 6, "nothing was touched"


def test_a_refusal_is_the_exit_status_of_the_process(workplace: Path) -> None:
    done = run(workplace / "cache", *TINY, "--device", "cuda", "--run-dir", str(workplace / "bad"))
    assert done.returncode == 2
    assert "--device: JAX chooses its device itself" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (workplace / "bad").exists()


def test_a_run_goes_on_on_a_mesh(workplace: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four host devices. More than there are: one sentence, and nothing is touched."""
    folder, options = workplace / "on-a-mesh", ("--rollouts", "7", "--data-parallel", "2", "--model-parallel", "2")
    shutil.copytree(finished, folder)
    refused = run(workplace / "cache", "--resume", str(folder), *options)
    assert refused.returncode == 2
    assert "--data-parallel 2 --model-parallel 2: expected 4 devices, JAX sees 1" in refused.stderr
    assert json.loads((folder / "config.json").read_text())["rollouts"] == 6
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4")
    done = run(workplace / "cache", "--resume", str(folder), *options)
    assert done.returncode == 0, done.stderr
    assert rows(folder)[:6] == rows(finished)
    assert math.isfinite(rows(folder)[6]["loss"])
    assert json.loads((folder / "config.json").read_text())["model_parallel"] == 2
