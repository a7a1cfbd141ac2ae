"""The training script, as a person runs it: it trains, it can be killed and resumed exactly, it says what was wrong.

All on a Qwen3 of a few thousand parameters, made from a config, through the command line.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from pathlib import Path

import pytest
from support.runs.kills import Killer
from support.runs.scripts import PRETRAINED, TINY, refusal, rows, run, started

from integration.records.checksums import write_checksums

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cache of warmed-up models that all runs share."""
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="session")
def killer(workplace: Path) -> Killer:
    """Runs of eight rollouts, the first of them to its end."""
    return Killer("train_torch", workplace, seed=1, rollouts=8, options=[*TINY, "--checkpoint-every", "3"])


@pytest.fixture(scope="session")
def finished(killer: Killer) -> Path:
    """A run to its end."""
    return killer.undisturbed


def test_a_run_moves_the_ratio_and_clips(finished: Path) -> None:
    metrics = rows(finished)
    assert [row["step"] for row in metrics] == list(range(1, 9))
    assert all(math.isfinite(row["loss"]) and 0 <= row["clip_fraction"] <= 1 for row in metrics)
    assert max(row["max_abs_log_s"] for row in metrics) > 1e-4
    assert any(0 < row["clip_fraction"] < 1 for row in metrics)
    # The first mini-batch of a rollout is on policy, the later ones are not.
    assert all(row["by_mini_batch"][0] == {"clip_fraction": 0.0, "log_s_rms": 0.0} for row in metrics)
    assert any(row["by_mini_batch"][3]["log_s_rms"] > 0 for row in metrics)


def test_a_run_leaves_everything_a_person_looks_for(finished: Path) -> None:
    for name in ("config.json", "evaluations.jsonl", "report.html", "report.png", "transcripts/before.json"):
        assert (finished / name).stat().st_size > 0, name
    assert (finished / "transcripts" / "after-000008.json").exists()
    assert list((finished / "tensorboard").iterdir())
    page = (finished / "report.html").read_text()
    assert "data:image/svg+xml;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert [p.name for p in sorted((finished / "checkpoints").iterdir())] == ["000006", "000008"]
    assert (finished / "checkpoints" / "000008" / "model.safetensors").exists()


def test_held_out_questions_are_never_trained_on(finished: Path) -> None:
    from integration.tasks.task import load_task  # noqa: PLC0415 (imports reasoning-gym: 4 s)

    task = load_task("count_bits", ["min_n=1", "max_n=63"], seed=0, train_size=40, held_out_size=10)
    trained = {e.question for step in range(30) for e in task.prompts_for(step, 4, 0)}
    assert trained == {e.question for e in task.train}, "every training question comes up"
    assert not trained & {e.question for e in task.held_out}
    asked = {row["question"] for row in json.loads((finished / "transcripts" / "before.json").read_text())}
    assert asked <= {e.question for e in task.held_out}


def test_a_learning_rate_of_zero_leaves_every_ratio_exactly_one(workplace: Path) -> None:
    folder = workplace / "lr0"
    done = run(workplace / "cache", *TINY, "--lr", "0", "--rollouts", "2", "--micro-batch-size", "3", "--run-dir", str(folder))
    assert done.returncode == 0, done.stderr
    for row in rows(folder):
        assert row["log_s"], "no response had an advantage: the claim would be empty"
        assert set(row["log_s"]) == {0.0}
        assert row["clip_fraction"] == 0
        assert row["max_abs_log_s"] == 0
        assert row["grad_norm"] > 0


def test_runs_that_are_killed_and_resumed_end_as_the_undisturbed_one(killer: Killer) -> None:
    """At random moments, also while a checkpoint is written; tests/support/runs/kills.py takes any number of kills."""
    killer.kill(2)
    assert killer.different == []
    assert killer.kills == 2


def test_ctrl_c_saves_and_can_be_resumed(workplace: Path, finished: Path) -> None:
    folder = workplace / "interrupted"
    process = started(workplace / "cache", *TINY, "--rollouts", "8", "--checkpoint-every", "100", "--run-dir", str(folder))
    metrics = folder / "metrics.jsonl"  # empty until the first rollout is over: the run then listens to signals
    while not (metrics.exists() and metrics.read_text()):
        assert process.is_running()
        time.sleep(0.01)
    process.send(signal.SIGINT)
    interrupted = process.done()
    assert interrupted.returncode == 130
    assert f"--resume {folder}" in interrupted.stdout
    done = run(workplace / "cache", "--resume", str(folder))
    assert done.returncode == 0, done.stderr
    assert rows(folder) == rows(finished)


def test_a_refusal_is_the_exit_status_of_the_process(workplace: Path) -> None:
    """Every other refusal is asked for in this process: test_refusals.py."""
    done = run(workplace / "cache", *TINY, "--task", "count_bitz", "--run-dir", str(workplace / "bad"))
    assert done.returncode == 2
    assert "no task 'count_bitz'; did you mean count_bits" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (workplace / "bad").exists()


def test_a_run_is_not_overwritten(workplace: Path, finished: Path) -> None:
    before = (finished / "metrics.jsonl").read_bytes()
    said = refusal(workplace / "cache", *TINY, "--rollouts", "8", "--run-dir", str(finished))
    assert f"continue it with --resume {finished}" in said
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_resuming_with_another_option_is_refused(workplace: Path, finished: Path) -> None:
    said = refusal(workplace / "cache", "--resume", str(finished), "--lr", "0.5")
    assert "--lr: the run to resume has 0.001, not 0.5" in said


def test_a_checkpoint_of_another_model_is_refused(workplace: Path, finished: Path) -> None:
    folder = workplace / "mixed"
    shutil.copytree(finished, folder)
    other = workplace / "other"
    larger = [{"32": "64", "0.2": "0.0"}.get(option, option) for option in TINY]  # not warmed up: only its sizes count
    done = run(workplace / "cache", *larger, "--rollouts", "1", "--run-dir", str(other))
    assert done.returncode == 0, done.stderr
    shutil.copy(other / "checkpoints" / "000001" / "trainer.pt", folder / "checkpoints" / "000008" / "trainer.pt")
    write_checksums(folder / "checkpoints" / "000008")
    assert "is a checkpoint of another model" in refusal(workplace / "cache", "--resume", str(folder), "--rollouts", "9")


def test_a_model_without_a_tokenizer_is_refused(workplace: Path, finished: Path) -> None:
    bare = workplace / "bare"
    shutil.copytree(finished / "checkpoints" / "000008", bare)
    for file in bare.glob("*token*"):
        file.unlink()
    said = refusal(workplace / "cache", *PRETRAINED, "--model", str(bare), "--run-dir", str(workplace / "bad"))
    assert "tokenizer" in said
    assert not (workplace / "bad").exists()
