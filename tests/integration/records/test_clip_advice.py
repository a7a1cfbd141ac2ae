"""--clip-fraction: the pilot's range is advised once, predicted against, saved and resumed bit-exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.repository import ROOT
from support.runs.scripts import TINY, rows, run

from gspo_core import Clip, Pilot
from gspo_core.clip_range import clip_fraction_for
from integration.options.errors import TrainingFailure
from integration.records.clip_advice import ClipAdvice

PLAIN = TINY[: TINY.index("--clip-low")]


def rollout(seed: int, n: int = 200) -> Pilot:
    """Responses that moved in the direction of their advantage, more or less."""
    rng = np.random.default_rng(seed)
    advantage = rng.choice([1.0, -1.0, 0.0], size=n)
    return Pilot(0.02 * advantage + 0.05 * rng.normal(size=n), rng.integers(1, 9, size=n), advantage)


def test_the_range_is_set_once_after_the_pilot_and_then_predicts() -> None:
    advice = ClipAdvice(0.1, 3)
    lines = [advice.after_rollout(rollout(seed)) for seed in range(3)]
    assert lines == [{"clip_range": None, "predicted_clip_fraction": None}] * 3
    chosen = advice.clip
    assert isinstance(chosen, Clip)
    pilot = rollout(0) + rollout(1) + rollout(2)
    assert clip_fraction_for(chosen, pilot).total == pytest.approx(0.1, abs=0.01)
    line = advice.after_rollout(rollout(3))
    assert line["clip_range"] == [chosen.low, chosen.high]
    assert line["predicted_clip_fraction"] == pytest.approx(0.1, abs=0.03)
    assert advice.clip is chosen
    assert len(advice.rollouts) == 3, "rollouts after the pilot are not taken into it"


def test_the_prediction_knows_lengths_and_signs_but_not_what_happened() -> None:
    advice = ClipAdvice(0.1, 1)
    advice.after_rollout(rollout(0))
    later = rollout(1)
    moved = Pilot(later.log_s * 7 + 1, later.lengths, later.advantage)
    assert advice.after_rollout(later) == advice.after_rollout(moved)
    half = Pilot(later.log_s, later.lengths, np.where(np.arange(200) % 2, later.advantage, 0.0))
    fewer = advice.after_rollout(half)["predicted_clip_fraction"]
    assert fewer < 0.7 * advice.after_rollout(later)["predicted_clip_fraction"]


@pytest.mark.parametrize("seen", [1, 3, 4])
def test_advice_survives_its_state(seen: int) -> None:
    """In the middle of the pilot, at its end and after it, through JSON as through a checkpoint."""
    through, resumed = ClipAdvice(0.1, 3), ClipAdvice(0.1, 3)
    for seed in range(seen):
        through.after_rollout(rollout(seed))
    resumed.restore(json.loads(json.dumps(through.state())))
    for seed in range(seen, 6):
        assert resumed.after_rollout(rollout(seed)) == through.after_rollout(rollout(seed))
    assert resumed.clip == through.clip


def test_a_fraction_out_of_reach_stops_the_run_with_a_sentence() -> None:
    advice = ClipAdvice(0.9, 1)
    with pytest.raises(
        TrainingFailure, match=r"--clip-fraction: after the pilot's 1 rollouts: target: no clip range clips 0.9"
    ):
        advice.after_rollout(rollout(0))


@pytest.mark.parametrize("name", ["clip-0", "clip-1", "clip-2"])
def test_the_committed_runs_were_predicted_within_two_points(name: str) -> None:
    """Over the whole run, and as docs/clip-range.md says for it and for its quarters, to a tenth of a point."""
    lines = [json.loads(line) for line in (ROOT / "docs/results" / name / "metrics.jsonl").read_text().splitlines()]
    after = [row for row in lines if row["predicted_clip_fraction"] is not None]
    assert (len(lines), len(after)) == (400, 390)
    page = (ROOT / "docs/clip-range.md").read_text(encoding="utf-8")
    for part in (after, *np.array_split(np.array(after, dtype=object), 4)):
        predicted, measured = (np.mean([row[k] for row in part]) for k in ("predicted_clip_fraction", "clip_fraction"))
        assert f"| {100 * predicted:.1f} % | {100 * measured:.1f} % |" in page
        assert abs(predicted - measured) < (0.02 if part is after else 0.035)


@pytest.fixture(scope="module")
def advised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six rollouts with a pilot of three, with its checkpoints of rollouts 4 and 6."""
    folder = tmp_path_factory.mktemp("advice") / "run"
    options = ("--clip-fraction", "0.1", "--pilot-rollouts", "3", "--checkpoint-every", "2", "--keep-states", "2")
    done = run(folder.parent / "cache", *PLAIN, "--seed", "2", "--rollouts", "6", *options, "--run-dir", str(folder))
    assert done.returncode == 0, done.stderr
    assert "clip range from the pilot" in done.stdout
    assert "Clip fraction predicted" in done.stdout
    return folder


@pytest.mark.slow
def test_a_run_takes_the_advice_and_says_what_it_promised(advised: Path) -> None:
    metrics = rows(advised)
    assert [row["clip_range"] is None for row in metrics] == [True] * 3 + [False] * 3
    low, high = metrics[3]["clip_range"]
    assert all(row["clip_range"] == [low, high] for row in metrics[3:])
    assert high == pytest.approx(low * 4 / 3)
    assert (low, high) != (0.03, 0.04)
    assert all(0 < row["predicted_clip_fraction"] < 1 for row in metrics[3:])


@pytest.mark.slow
def test_a_resumed_run_keeps_the_range_and_the_pilot(advised: Path, tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(advised, folder)
    shutil.rmtree(folder / "checkpoints" / "000006")
    done = run(advised.parent / "cache", "--resume", str(folder))
    assert done.returncode == 0, done.stderr
    assert rows(folder) == rows(advised)
