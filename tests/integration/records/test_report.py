"""A run's report says what its numbers say, and its picture shows them."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure
from support.runs.metrics import metrics_row

from gspo_core import Clip
from integration.options.config import Config
from integration.records import report
from integration.records.clip_advice import ranges_by_length
from integration.records.environment import environment
from integration.records.findings import Announcer, findings_of_run
from integration.records.plots import captioned, plots
from integration.records.report import gain_interval, summary, write_report
from integration.records.run_folder import RunFolder


@pytest.fixture
def unillustrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report without its pictures, which take two seconds: for tests of its text."""
    monkeypatch.setattr(report, "captioned", lambda _: ())
    monkeypatch.setattr(report, "plots", lambda _: Figure())


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
        folder.append("metrics.jsonl", metrics_row(step, seconds_sampling=1.0, seconds_updating=3.0))
    for _ in range(4):
        folder.note("environment.jsonl", environment(Config()) | {"commit": "abc"})
    for step, right in ((0, 0.25), (2, 0.75)):
        row = {"step": step, "sampled_accuracy": right, "greedy_accuracy": right, "sampled": [right] * 9, "greedy": [right] * 9}
        row["seconds"] = 1.0
        folder.append("evaluations.jsonl", row)
    transcript = {"question": "<b>1 < 2?</b>", "answer": "yes", "texts": ["", "no"], "scores": [0.0, 0.5]}
    folder.write_json("transcripts/before.json", [transcript, {**transcript, "question": "gone"}])
    folder.write_json("transcripts/after-000001.json", [])
    folder.write_json("transcripts/after-000002.json", [transcript | {"texts": ["yes", "<i>"], "scores": [1.0, 0.0]}])
    text = summary(folder)
    assert "sampled: 25.0 % → 75.0 % (rollout 2), gain +50.0 points (95 % interval +50.0 to +50.0, 9 prompts)" in text
    assert "Clip fraction 0.250 on average (low 0.200, high 0.050), largest |log s| 0.1250, 2 optimizer steps skipped" in text
    page = write_report(folder).read_text(encoding="utf-8")
    assert "&lt;b&gt;1 &lt; 2?&lt;/b&gt;" in page
    assert "<b>1" not in page
    row = page[page.index("<tr><td>&lt;b&gt;1") :].partition("</tr>")[0]
    assert row.index("0.50 &nbsp; no") < row.index('<span class="right">✓ yes</span>'), "before and after, side by side"
    assert "<th>before training</th><th>after rollout 2</th>" in page
    assert "gone" not in page, "a question that was not asked again is not compared"
    assert page.count("<figcaption>") == page.count("data:image/svg+xml;base64,") == 6
    assert "<td>updates</td><td>2 × 3.00 s</td><td>6 s, 60%</td>" in page
    assert "<tr><th>Commit</th><td>abc</td></tr>" in page
    assert "3 times resumed, last 2026" in page
    assert (folder.path / "report.png").stat().st_size > 10_000
    folder.close()


@pytest.mark.parametrize(("objective", "shown"), [("gspo", True), ("sapo", False), ("gmpo", False)])
def test_a_picture_has_a_clip_range_if_the_objective_has_one(tmp_path: Path, objective: str, shown: bool) -> None:
    run = RunFolder(tmp_path / "run", keep_checkpoints=1)
    run.create(Config(objective=objective).to_json())
    run.append("metrics.jsonl", metrics_row(1))
    _, labels = plots(run).axes[2].get_legend_handles_labels()
    assert any("clip range" in label for label in labels) == shown
    for figure, caption in captioned(run):
        assert caption
        plt.close(figure)
    run.close()


def test_a_share_has_no_negative_axis(folder: RunFolder) -> None:
    """Where nothing was clipped, too."""
    nothing = dict.fromkeys(("clip_fraction", "clip_low", "clip_high"), 0.0)
    for step in (1, 2):
        folder.append("metrics.jsonl", metrics_row(step, **nothing))
    low, high = plots(folder).axes[1].get_ylim()
    assert -0.05 * high < low <= 0.0 < high


@pytest.mark.usefixtures("unillustrated")
def test_a_report_lists_each_kind_of_finding_once(folder: RunFolder) -> None:
    """With the numbers of the last rollout that had it, most frequent first, near the top of the page."""
    wide = [{"kind": "CLIP_RANGE_WIDE", "sentence": f"The largest |log s| is {i} < 9."} for i in range(3)]
    none = {"kind": "CONSTANT_GROUPS", "sentence": "None of 8 responses has an advantage."}
    for step, found in enumerate(([none], [wide[0]], [wide[1]], [wide[2], none], [])):
        folder.append("metrics.jsonl", metrics_row(step + 1, findings=found))
    assert findings_of_run(folder.rows("metrics.jsonl")) == [
        "3 of 5 rollouts, last in rollout 4: The largest |log s| is 2 < 9.",
        "2 of 5 rollouts, last in rollout 4: None of 8 responses has an advantage.",
    ]
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<li>3 of 5 rollouts, last in rollout 4: The largest |log s| is 2 &lt; 9.</li>" in page
    assert page.index("<h2>Findings</h2>") < page.index('<div class="plots">')
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


@pytest.mark.usefixtures("unillustrated")
def test_a_report_shows_what_the_clip_range_does_to_each_length(folder: RunFolder) -> None:
    """log s spreads by 0.06/√length; the range of the run is −0.03 … +0.04."""
    generator = random.Random(0)
    for step in (1, 2):
        lengths = [generator.choice((1, 2, 3, 100)) for _ in range(400)]
        log_s = [generator.gauss(0.0, 0.06 / math.sqrt(length)) for length in lengths]
        signs = [generator.choice((-1, 1)) for _ in lengths]
        folder.append("metrics.jsonl", metrics_row(step, log_s=log_s, lengths=lengths, signs=signs))
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
    folder.append("metrics.jsonl", metrics_row(1, **seen))
    folder.append("metrics.jsonl", metrics_row(2))
    text = summary(folder)
    assert "token log ratios spread by 0.2500, effective sample size 0.500." in text
    assert "noise is 25.0% of the variance of log s. Alone it makes log s 0.0031, 12.5% of the clip range." in text
    assert "20.0% are clipped; with the engine's log-probs as the old ones it would be 30.0%, and 15.0% of the" in text
    assert "would choose 20.00% of the sampler's experts otherwise" in text
    assert "would choose 3.00% of the old experts otherwise" in text
    folder.close()


@pytest.mark.slow
def test_a_run_killed_before_its_first_rollout_still_has_a_report(folder: RunFolder) -> None:
    assert write_report(folder).exists()
    assert summary(folder) == "0 rollouts."


@pytest.mark.usefixtures("unillustrated")
def test_what_utf_8_cannot_hold_is_written_as_its_escape(folder: RunFolder) -> None:
    """A model may write half of a character."""
    transcript = [{"question": "\ud800?", "answer": "ä", "texts": ["4\udfff"], "scores": [0.0]}]
    folder.write_json("transcripts/before.json", transcript)
    assert json.loads((folder.path / "transcripts/before.json").read_text(encoding="utf-8")) == transcript
    assert "4\\udfff" in write_report(folder).read_text(encoding="utf-8")


def evaluation(step: int, right: float, seconds: float = 2.0) -> dict[str, Any]:
    """A line of evaluations."""
    return {"step": step, "sampled": [right] * 4, "greedy": [right / 2] * 4, "seconds": seconds}


def test_the_summary_is_of_the_first_evaluation_and_the_last(folder: RunFolder) -> None:
    """And of all rollouts: means, the largest, the sum."""
    for step, right in ((0, 0.25), (3, 1.0), (6, 0.5)):
        folder.append("evaluations.jsonl", evaluation(step, right))
    sizes = (0.5, 2.0, 0.125)
    for step, size in enumerate(sizes, 1):
        more = {"entropy_per_token": float(step), "reference_kl_k3_per_token": None if step == 1 else 0.1 * step}
        folder.append("metrics.jsonl", metrics_row(step, max_abs_log_s=size, clip_low=0.1 * step, **more))
    folder.write_json("task.json", {"sentences": ["Disjoint.", "No junk pays."]})
    text = summary(folder)
    assert text.startswith("3 rollouts.")
    assert "sampled: 25.0 % → 50.0 % (rollout 6), gain +25.0 points (95 % interval +25.0 to +25.0, 4 prompts)" in text
    assert "greedy: 12.5 % → 25.0 % (rollout 6), gain +12.5 points" in text
    assert "(low 0.200, high 0.050), largest |log s| 2.0000, 3 optimizer steps skipped" in text
    assert "Entropy per token of the responses that were run: 1 → 3 nats." in text
    assert "KL divergence from the reference per token (k3): 0.2 → 0.3 nats." in text
    assert text.endswith("Disjoint.\nNo junk pays.")
    folder.close()


def test_the_summary_compares_what_was_predicted_with_what_was_clipped(folder: RunFolder) -> None:
    """In the rollouts after the pilot; the range is the one that was advised."""
    folder.append("metrics.jsonl", metrics_row(1, clip_fraction=0.9, clip_range=None, predicted_clip_fraction=None))
    for step in (2, 3):
        seen = {"clip_range": [0.01, 0.02], "predicted_clip_fraction": 0.1 * step, "clip_fraction": 0.5}
        folder.append("metrics.jsonl", metrics_row(step, **seen))
    assert (
        "Clip fraction predicted 0.250, measured 0.500 on average over the 2 rollouts after the pilot, with the range that it "
        "advised: 0.01 below, 0.02 above."
    ) in summary(folder)
    folder.close()


def spread_row(step: int, scale: float, **changes: Any) -> dict[str, Any]:
    """A line with log s of 200 responses of 4 tokens."""
    draw = random.Random(step)
    log_s, signs = [draw.gauss(0.0, scale) for _ in range(200)], [draw.choice((-1, 1)) for _ in range(200)]
    return metrics_row(step, log_s=log_s, lengths=[4] * 200, signs=signs, **changes)


def test_the_table_by_length_is_of_the_advised_range_and_of_the_rollouts_that_had_it(folder: RunFolder) -> None:
    """Before it, in the pilot, log s spread ten times as far."""
    folder.append("metrics.jsonl", spread_row(1, 0.3, clip_range=None))
    row = spread_row(2, 0.03, clip_range=[0.02, 0.02])
    folder.append("metrics.jsonl", row)
    (only,) = ranges_by_length([row], Clip(0.02, 0.02))
    assert f"<tr><td>4 to 7</td><td>100.0%</td><td>{only.common.total:.1%}</td>" in report._lengths(folder)
    assert 0.1 < only.common.total < 0.4
    folder.close()


def test_another_objective_has_no_table_by_length(tmp_path: Path) -> None:
    """Its clip range is not about log s of whole responses."""
    for objective, there in (("gspo", True), ("grpo", False)):
        run = RunFolder(tmp_path / objective, keep_checkpoints=1)
        run.create(Config(objective=objective, clip_low=0.03, clip_high=0.04).to_json())
        run.append("metrics.jsonl", spread_row(1, 0.05))
        assert ("<table>" in report._lengths(run)) == there
        run.close()


def test_the_time_is_split_by_what_it_was_for(folder: RunFolder) -> None:
    assert report._phases(folder) == ""
    for step, seconds in ((1, 1.0), (2, 3.0)):
        folder.append("metrics.jsonl", metrics_row(step, seconds_sampling=seconds, seconds_updating=2 * seconds))
    folder.append("evaluations.jsonl", evaluation(0, 0.0, seconds=8.0))
    page = report._phases(folder)
    assert "<td>sampling and scoring</td><td>2 × 2.00 s</td><td>4 s, 20%</td>" in page
    assert "<td>updates</td><td>2 × 4.00 s</td><td>8 s, 40%</td>" in page
    assert "<td>evaluations</td><td>1 × 8.00 s</td><td>8 s, 40%</td>" in page
    assert "<li>none</li>" in report._findings(folder)
    folder.close()
