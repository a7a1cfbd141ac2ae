"""The training study's statistics against numbers made by hand, and its tables of runs that are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.repository import ROOT

from integration.options.errors import UserError
from integration.studies.moe_training import analysis as moe_analysis
from integration.studies.moe_training.arms import CALIBRATION_BANDS, MAIN, MATCHED, RESCUE
from integration.studies.moe_training.hypotheses import HYPOTHESES, Hypothesis, Measure, decide
from integration.studies.moe_training.intervals import Grid, bootstrap, collapsed, largest_stable, wilson


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.3] * 10, False),
        ([0.3, 0.5, 0.8, 0.8, 0.8, 0.8, 0.8, 0.5, 0.41, 0.41, 0.41, 0.41, 0.41], False),  # 0.41 is more than half of 0.8
        ([0.3, 0.5, 0.8, 0.8, 0.8, 0.8, 0.8, 0.5, 0.39, 0.39, 0.39, 0.39, 0.39], True),
        ([0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.9, 0.2, 0.2, 0.2, 0.2, 0.2], False),  # one lucky rollout is no best five
        ([0.3, 0.28, 0.28, 0.28, 0.28, 0.28], False),  # the start is lost, but by less than a tenth
        ([0.3, 0.26, 0.26, 0.26, 0.26, 0.26], True),
    ],
)
def test_a_collapse_is_half_of_the_best_or_nine_tenths_of_the_start(curve: list[float], expected: bool) -> None:
    assert collapsed(curve) is expected


def test_a_curve_too_short_to_judge_is_refused() -> None:
    with pytest.raises(UserError, match="at least 5 rollouts"):
        collapsed([0.3] * 4)


def test_wilsons_interval_by_hand() -> None:
    """Its ends solve (p̂ − p)² = z² p (1 − p) / n; the textbook's 1 of 10 and 0 of 10."""
    for count, total in ((1, 10), (0, 10), (10, 10), (7, 18)):
        share, low, high = wilson(count, total)
        assert share == count / total
        for end in (low, high):
            assert (share - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / total, abs=1e-12)
    assert [round(x, 3) for x in wilson(1, 10)[1:]] == [0.018, 0.404]
    assert [round(x, 3) for x in wilson(0, 10)[1:]] == [0.0, 0.278]


def test_the_bootstrap_of_two_seeds_by_hand() -> None:
    """Resamples of {0, 1} have the means 0, ½, 1 with probabilities ¼, ½, ¼: both ends are reached."""
    assert bootstrap([0.0, 1.0]) == (0.5, 0.0, 1.0)
    assert bootstrap([0.7] * 5) == pytest.approx((0.7, 0.7, 0.7))


def test_the_bootstrap_is_that_of_the_normal_law_for_many_seeds() -> None:
    x = np.random.default_rng(1).normal(size=400)
    _, low, high = bootstrap(x.tolist())
    assert (high - low) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.03)
    assert bootstrap(x.tolist()) == bootstrap(x.tolist())


def test_the_largest_stable_rate_is_below_the_first_collapse() -> None:
    assert largest_stable({0.1: [False, False], 0.2: [False, True], 0.3: [False, False]}) == 0.1
    assert largest_stable({0.3: [False], 0.1: [False]}) == 0.3
    assert largest_stable({0.1: [True]}) is None


def made_up(arm: str, lr: float, seed: int, end: float, *, falls: bool = False, study: str = "main") -> dict[str, Any]:
    """A run whose curve is flat at 0.5, or falls to 0.1."""
    reward = [0.3] + [0.5] * 6 + [0.1 if falls else 0.5] * 5
    numbers = {name: [0.1] * 12 for name in ("clip_fraction", "grad_norm", "sd_token", "sd_log_s", "log_s_max")}
    curves = {"reward": reward, **numbers, "skipped": [0] * 12, "flips_engine": [[0.1, 0.2]] * 12, "flips_updates": [[]] * 12}
    return {
        "study": study, "arm": arm, "lr": lr, "seed": seed, "held_out": [0.3, end],
        "curves": curves, "seconds": {"run": 2.0, "responses": 1.0},
    }  # fmt: skip


ARM_NAMES = ("gspo-matched", "other")


def study(difference: float, falls: bool) -> Grid:
    ends = {"gspo-matched": 0.5, "other": 0.5 + difference}
    rows = [
        made_up(arm, lr, seed, ends[arm] + 0.01 * seed, falls=falls and arm == "other")
        for arm in ARM_NAMES for lr in (0.1, 0.2) for seed in range(5)
    ]  # fmt: skip
    return Grid(rows, "main")


@pytest.mark.parametrize(
    ("difference", "margin", "word"),
    [
        (0.1, None, "confirmed"),
        (-0.1, None, "not confirmed, and reversed"),
        (0.0, None, "not confirmed"),
        (0.02, 0.05, "confirmed"),
        (0.06, 0.05, "not confirmed"),
    ],
)
def test_a_hypothesis_is_decided_by_its_interval(difference: float, margin: float | None, word: str) -> None:
    asked = Hypothesis("H", "", "main", "other", "gspo-matched", Measure.REWARD, margin)
    verdict = decide(asked, study(difference, False))
    assert verdict.word == word
    assert verdict.difference.mean == pytest.approx(difference)
    assert verdict.signs == (5 * (difference > 0), 5 * (difference < 0))


def test_survival_is_counted_from_the_curves() -> None:
    asked = Hypothesis("H", "", "main", "gspo-matched", "other", Measure.SURVIVAL)
    assert decide(asked, study(0.0, True)).difference == (1.0, 1.0, 1.0)
    assert decide(asked, study(0.0, False)).word == "not confirmed"


def test_only_whole_seeds_count_and_the_rest_is_told() -> None:
    rows = [made_up(arm, lr, seed, 0.5) for seed in range(2) for arm in ARM_NAMES for lr in (0.1, 0.2)][:-1]
    grid = Grid(rows, "main")
    assert grid.seeds == [0]
    assert grid.left_out == 3
    assert "3 runs of seeds that are not whole are left out" in moe_analysis.page(decided(rows))
    with pytest.raises(UserError, match="a seed with every arm"):
        Grid(rows[:1] + rows[5:6], "main")


def decided(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, and every arm that a hypothesis of the study names."""
    arms = {arm for h in HYPOTHESES if h.study == "main" for arm in (h.arm, h.other)} - set(ARM_NAMES)
    return rows + [made_up(arm, lr, 0, 0.4) for arm in sorted(arms) for lr in (0.1, 0.2)]


@pytest.mark.slow
def test_one_command_makes_tables_and_pictures(tmp_path: Path) -> None:
    rows = decided([made_up(arm, lr, 0, 0.5 + lr, falls=arm == "other") for arm in ARM_NAMES for lr in (0.1, 0.2)])
    (tmp_path / "results.jsonl").write_text("".join(json.dumps({"result": row}) + "\n" for row in rows), encoding="utf-8")
    moe_analysis.main(moe_analysis.Command(tmp_path, tmp_path / "out"))
    text = (tmp_path / "out" / "tables.md").read_text(encoding="utf-8")
    assert (
        "| other | 1/1 (0.21 to 1.00) | 1/1 (0.21 to 1.00) | 2/2 (0.34 to 1.00) | none | 0.2 | 0.700 (0.700 to 0.700) |" in text
    )
    for name in {row["arm"] for row in rows}:
        assert f"| {name} |" in text
    for h in HYPOTHESES:
        assert (f"| {h.name} |" in text) == (h.study == "main")
    for picture in ("curves-main.png", "held-out-main.png"):
        assert (tmp_path / "out" / picture).stat().st_size > 1000
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == (tmp_path / "results.jsonl").read_bytes()


def test_an_empty_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a results\.jsonl with finished runs"):
        moe_analysis.main(moe_analysis.Command(tmp_path))


def test_the_matched_band_is_interpolated_between_the_bands_that_were_tried() -> None:
    """Clip fractions 0.8, 0.6, 0.4, 0.3, 0.2 from narrow to wide; GSPO's 0.7 lies half way between the first two."""
    rows = [made_up("gspo-matched", 0.1, 100, 0.5, study="calibration")]
    rows += [made_up(f"grpo-{high:g}", 0.1, 100, 0.5, study="calibration") for high in CALIBRATION_BANDS]
    for row, clipped in zip(rows, (0.7, 0.8, 0.6, 0.4, 0.3, 0.2), strict=True):
        row["curves"]["clip_fraction"] = [clipped] * 12
    target, high = moe_analysis.matched_band(Grid(rows, "calibration"))
    assert target == pytest.approx(0.7)
    assert high == pytest.approx(np.sqrt(CALIBRATION_BANDS[0] * CALIBRATION_BANDS[1]))
    rows[0]["curves"]["clip_fraction"] = [0.9] * 12
    with pytest.raises(UserError, match="bands around"):
        moe_analysis.matched_band(Grid(rows, "calibration"))


def test_the_matched_range_is_that_of_the_committed_calibration() -> None:
    """And the page says so."""
    root = ROOT
    target, high = moe_analysis.matched_band(Grid(moe_analysis.load(root / "docs/results/moe-pilot"), "calibration"))
    assert list(MATCHED) == [round(0.75 * high, 4), round(high, 4)]
    text = (root / "docs/studies/moe-training.md").read_text(encoding="utf-8")
    assert f"({MATCHED[0]}, {MATCHED[1]})" in text
    assert f"gspo-matched {target:.3f};" in text


def test_the_page_has_every_hypothesis_and_its_rule() -> None:
    page = (ROOT / "docs/studies/moe-training.md").read_text(encoding="utf-8")
    text = page.split("## The plan, written before the runs")[1]
    arms = {study.name: {arm.name for arm in study.arms} for study in (MAIN, RESCUE)}
    for h in HYPOTHESES:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {h.name} |")]
        assert f"{h.arm} − {h.other}" in line
        assert {h.arm, h.other} <= arms[h.study]
        assert ("survival" if h.measure is Measure.SURVIVAL else "held-out") in line
        assert ("> 0" if h.margin is None else f"within ±{h.margin:g}") in line
