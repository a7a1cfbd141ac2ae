"""A run's folder never holds half of anything, and its report says what its numbers say."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from gspo_core import Clip
from integration.on_torch.checkpoint import fingerprint, load_state, write_checkpoint
from integration.options.config import Config
from integration.options.errors import TrainingFailure, UserError
from integration.options.sizes import Experts
from integration.records.clip_advice import ranges_by_length
from integration.records.findings import Announcer, findings_of_run
from integration.records.plots import plots
from integration.records.report import gain_interval, summary, write_report
from integration.records.run_folder import RunFolder


class Model(torch.nn.Linear):
    """Something with weights that saves itself like a transformers model."""

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        torch.save(self.state_dict(), folder / "weights.pt")


class FullDisk(Model):
    """A model that is interrupted while it is written."""

    def save_pretrained(self, folder: Path) -> None:
        super().save_pretrained(folder)
        raise OSError("no space left")


class Tokenizer:
    """Nothing to save."""

    def save_pretrained(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


def save(folder: RunFolder, step: int, model: Model, state: dict[str, Any]) -> Path:
    """A checkpoint."""
    return folder.save_checkpoint(step, lambda path: write_checkpoint(path, model, Tokenizer(), {"step": step, **state}))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A new run."""
    run = RunFolder(tmp_path / "run", keep_checkpoints=2)
    run.create(Config().to_json())
    return run


def metrics(step: int, **changes: Any) -> dict[str, Any]:
    """A line of metrics."""
    row = {
        "step": step,
        "reward": 0.5,
        "response_length": 5.0,
        "clip_fraction": 0.25,
        "clip_low": 0.2,
        "clip_high": 0.05,
        "max_abs_log_s": 0.125,
        "skipped_steps": 1,
        "grad_norm": None,
        "by_mini_batch": [{"clip_fraction": 0.0, "log_s_rms": 0.0}],
        "log_s": [0.01, -0.02],
    }
    return {**row, **changes}


def test_a_torn_last_line_is_left_out(folder: RunFolder) -> None:
    for step in (1, 2):
        folder.append("metrics.jsonl", metrics(step))
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    assert [row["step"] for row in folder.rows("metrics.jsonl")] == [1, 2]
    folder.rewind(1)
    assert [row["step"] for row in folder.rows("metrics.jsonl")] == [1]
    folder.append("metrics.jsonl", metrics(2))
    assert [row["step"] for row in folder.rows("metrics.jsonl")] == [1, 2]
    folder.close()


@pytest.mark.parametrize("row", [{"reward": 1.0}, {"step": None}, {"step": "2"}])
def test_a_line_without_its_step_is_named(folder: RunFolder, row: dict[str, Any]) -> None:
    folder.append("metrics.jsonl", metrics(1))
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"metrics.jsonl: line 2 is damaged: expected a step, a whole number, got"):
        folder.rewind(1)
    folder.close()


def test_an_interrupted_checkpoint_is_none(folder: RunFolder) -> None:
    save(folder, 1, Model(2, 2), {"x": 1})
    with pytest.raises(
        TrainingFailure, match=r"000002 could not be written: OSError: no space left; the last whole .*000001\."
    ):
        save(folder, 2, FullDisk(2, 2), {"x": 2})
    assert [p.name for p in folder.checkpoints()] == ["000001"]
    save(folder, 2, Model(2, 2), {"x": 3})
    assert load_state(folder.checkpoints()[-1], Model(2, 2))["x"] == 3


def test_old_checkpoints_go_and_new_ones_stay(folder: RunFolder) -> None:
    for step in (9, 10, 100):
        save(folder, step, Model(2, 2), {})
    assert [p.name for p in folder.checkpoints()] == ["000010", "000100"]


def test_a_checkpoint_knows_its_model(folder: RunFolder) -> None:
    path = save(folder, 1, Model(2, 2), {})
    assert load_state(path, Model(2, 2))["step"] == 1
    with pytest.raises(UserError, match="is a checkpoint of another model"):
        load_state(path, Model(2, 3))
    (path / "trainer.pt").write_bytes(b"half a file")
    with pytest.raises(UserError, match="cannot be read"):
        load_state(path, Model(2, 2))
    assert fingerprint(Model(2, 2)) != fingerprint(Model(1, 4))


def test_a_configuration_survives_the_disk(folder: RunFolder) -> None:
    config = Config(model="small-moe", experts=Experts(4, 1), task_args=("a=1",), lr=0.5, run_dir=Path("x/y"))
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert Config.from_json(folder.config()) == Config()
    with pytest.raises(UserError, match=r"config\.json is of another version"):
        Config.from_json({**config.to_json(), "renamed_option": 1})


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the folder of a run"):
        RunFolder(tmp_path, keep_checkpoints=1).config()


def test_the_interval_of_the_gain_is_that_of_a_mean() -> None:
    assert gain_interval([0.25] * 50, [0.75] * 50) == (50.0, 50.0)
    before, after = [0.0] * 400, [float(i % 2) for i in range(400)]
    low, high = gain_interval(before, after)
    half = 1.96 * 100 * math.sqrt(0.25 / 400)  # normal theory: 50 ± 4.9 points
    # 4,000 draws give the ends to about 0.05 standard errors of 2.5 points; means come in steps of 0.25
    assert (low, high) == (pytest.approx(50 - half, abs=0.5), pytest.approx(50 + half, abs=0.5))


def test_the_interval_is_over_prompts_not_responses() -> None:
    """Pairing matters: prompts that are hard before and after must not widen the interval."""
    before = [float(i % 2) * 0.5 for i in range(100)]
    low, high = gain_interval(before, [b + 0.25 for b in before])
    assert (low, high) == (25.0, 25.0)


@pytest.mark.slow
def test_a_report_says_what_was_measured(folder: RunFolder) -> None:
    for step in (1, 2):
        folder.append("metrics.jsonl", metrics(step))
    for step, right in ((0, 0.25), (2, 0.75)):
        row = {"step": step, "sampled_accuracy": right, "greedy_accuracy": right, "sampled": [right] * 9, "greedy": [right] * 9}
        folder.append("evaluations.jsonl", row)
    transcript = [{"question": "<b>1 < 2?</b>", "answer": "yes", "texts": ["", "no"], "scores": [0.0, 0.5]}]
    folder.write_json("transcripts/before.json", transcript)
    text = summary(folder)
    assert "sampled: 25.0 % → 75.0 %, gain +50.0 points (95 % interval +50.0 to +50.0, 9 prompts)" in text
    assert "Clip fraction 0.250 on average (low 0.200, high 0.050), largest |log s| 0.1250, 2 optimizer steps skipped" in text
    page = write_report(folder).read_text(encoding="utf-8")
    assert "&lt;b&gt;1 &lt; 2?&lt;/b&gt;" in page
    assert "<b>1" not in page
    assert (folder.path / "report.png").stat().st_size > 10_000
    folder.close()


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "shown"), [("gspo", True), ("sapo", False), ("gmpo", False)])
def test_a_picture_has_a_clip_range_if_the_objective_has_one(tmp_path: Path, objective: str, shown: bool) -> None:
    run = RunFolder(tmp_path / "run", keep_checkpoints=1)
    run.create(Config(objective=objective).to_json())
    run.append("metrics.jsonl", metrics(1))
    _, labels = plots(run).axes[2].get_legend_handles_labels()
    assert any("clip range" in label for label in labels) == shown
    assert write_report(run).exists()
    run.close()


@pytest.mark.slow
def test_a_report_lists_each_kind_of_finding_once(folder: RunFolder) -> None:
    """With the numbers of the last rollout that had it, most frequent first, near the top of the page."""
    wide = [{"kind": "CLIP_RANGE_WIDE", "sentence": f"The largest |log s| is {i} < 9."} for i in range(3)]
    none = {"kind": "CONSTANT_GROUPS", "sentence": "None of 8 responses has an advantage."}
    for step, found in enumerate(([none], [wide[0]], [wide[1]], [wide[2], none], [])):
        folder.append("metrics.jsonl", metrics(step + 1, findings=found))
    assert findings_of_run(folder.rows("metrics.jsonl")) == [
        "3 of 5 rollouts, last in rollout 4: The largest |log s| is 2 < 9.",
        "2 of 5 rollouts, last in rollout 4: None of 8 responses has an advantage.",
    ]
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<li>3 of 5 rollouts, last in rollout 4: The largest |log s| is 2 &lt; 9.</li>" in page
    assert page.index("<h2>Findings</h2>") < page.index("<img")
    folder.close()


def test_a_finding_is_printed_once_also_after_a_resume(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"findings": [{"kind": kind, "sentence": f"{kind} {step}"} for kind in kinds]}
        for step, kinds in enumerate(["AB", "BA", "C"])
    ]
    announcer = Announcer([])
    for step, row in enumerate(rows):
        announcer.after_rollout(step, row)
    assert capsys.readouterr().out.splitlines() == ["rollout 0: A 0", "rollout 0: B 0", "rollout 2: C 2"]
    Announcer(rows[:2]).after_rollout(2, rows[2])
    assert capsys.readouterr().out.splitlines() == ["rollout 2: C 2"]
    Announcer(rows).after_rollout(3, rows[1])
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_report_shows_what_the_clip_range_does_to_each_length(folder: RunFolder) -> None:
    """log s spreads by 0.06/√length; the range of the run is −0.03 … +0.04."""
    generator = random.Random(0)
    for step in (1, 2):
        lengths = [generator.choice((1, 2, 3, 100)) for _ in range(400)]
        log_s = [generator.gauss(0.0, 0.06 / math.sqrt(length)) for length in lengths]
        signs = [generator.choice((-1, 1)) for _ in lengths]
        folder.append("metrics.jsonl", metrics(step, log_s=log_s, lengths=lengths, signs=signs))
    rows = folder.rows("metrics.jsonl")
    bins = ranges_by_length(rows, Clip(0.03, 0.04))
    assert [(b.shortest, b.longest) for b in bins] == [(1, 1), (2, 3), (64, 127)]
    assert sum(b.share for b in bins) == pytest.approx(1.0)
    clipped = [
        s * x > 0 and (x > math.log(1.04) or x < math.log(0.97))
        for row in rows
        for x, s in zip(row["log_s"], row["signs"], strict=True)
    ]
    assert sum(b.share * b.common.total for b in bins) == pytest.approx(sum(clipped) / len(clipped), abs=0.01)
    shares = [b.common.total for b in bins]
    assert shares[0] > shares[1] > shares[2]
    assert bins[0].clip is not None
    assert bins[0].clip.low > 0.03
    page = write_report(folder).read_text(encoding="utf-8")
    assert f"<tr><td>2 to 3</td><td>{bins[1].share:.1%}</td><td>{bins[1].common.total:.1%}</td>" in page
    folder.close()


@pytest.mark.parametrize("clip", [Clip(0.5, 0.5), Clip(0.0, 0.1), None])
def test_a_range_that_clips_nothing_or_none_has_no_table(clip: Clip | None) -> None:
    row = {"log_s": [0.01, -0.02], "lengths": [3, 4], "signs": [1, -1]}
    assert ranges_by_length([row], clip) == ()
    assert ranges_by_length([{"log_s": [0.01]}], Clip(1e-3, 1e-3)) == ()
    assert len(ranges_by_length([{**row, "signs": [1, 1]}], Clip(1e-3, 1e-3))) == 2, "the row has what a table needs"


def test_a_report_says_what_engine_and_routers_did(folder: RunFolder) -> None:
    """Where it was written down: rollouts without any advantage have no such numbers."""
    seen = {
        "sampler_token_std": 0.25,
        "sampler_ess": 0.5,
        "mismatch_log_s_noise_share": 0.25,
        "mismatch_noise_floor": 0.0031,
        "mismatch_noise_floor_share": 0.125,
        "mismatch_clipped_by_old": 0.2,
        "mismatch_clipped_by_sampler": 0.3,
        "mismatch_gate_disagreement": 0.15,
        "flips_engine": [0.1, 0.3],
        "flips_update": [[0.0, 0.0], [0.02, 0.04]],
    }
    folder.append("metrics.jsonl", metrics(1, **seen))
    folder.append("metrics.jsonl", metrics(2))
    text = summary(folder)
    assert "token log ratios spread by 0.2500, effective sample size 0.500." in text
    assert "noise is 25.0% of the variance of log s. Alone it makes log s 0.0031, 12.5% of the clip range." in text
    assert "20.0% are clipped; with the engine's log-probs as the old ones it would be 30.0%, and 15.0% of the" in text
    assert "would choose 20.00% of the sampler's experts otherwise" in text
    assert "would choose 3.00% of the old experts otherwise" in text
    folder.close()


def test_a_configuration_from_before_there_were_mixtures_still_loads() -> None:
    saved = Config(model="small").to_json()
    for name in ("experts", "routing_replay", "router_noise", "sampler_dtype", "sampler_correction"):
        del saved[name]
    assert Config.from_json(saved) == Config(model="small")


@pytest.mark.slow
def test_a_run_killed_before_its_first_rollout_still_has_a_report(folder: RunFolder) -> None:
    assert write_report(folder).exists()
    assert summary(folder) == "0 rollouts."


@pytest.mark.slow
def test_what_utf_8_cannot_hold_is_written_as_its_escape(folder: RunFolder) -> None:
    """A model may write half of a character."""
    transcript = [{"question": "\ud800?", "answer": "ä", "texts": ["4\udfff"], "scores": [0.0]}]
    folder.write_json("transcripts/before.json", transcript)
    assert json.loads((folder.path / "transcripts/before.json").read_text(encoding="utf-8")) == transcript
    assert "4\\udfff" in write_report(folder).read_text(encoding="utf-8")
