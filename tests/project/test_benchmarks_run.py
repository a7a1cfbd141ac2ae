"""The LM-head benchmarks run, refuse to time what computes something else, and their page says what their results say."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import goals
import head_cases
import head_implementations
import lm_head
import pytest
import stopwatch
import torch
from support.repository import ROOT

FOLDER = ROOT / "benchmarks"

# Other tests of the same process have loaded JAX, which minds any fork; the forked child does not touch it.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(r"ignore:os.fork\(\) was called:RuntimeWarning")]


@pytest.fixture(scope="module", autouse=True)
def _little_to_search() -> None:
    """The stopwatch collects garbage before each measurement: seconds among all that other tests have left in the process."""
    gc.collect()
    gc.freeze()


def run(script: str, *options: str, mode: str = "--quick") -> str:
    """What it prints."""
    root = FOLDER.parent
    path = os.pathsep.join([str(root), str(root / "backends"), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, str(FOLDER / script), mode, *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_comparison_runs_and_says_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "lm_head.json"
    run("lm_head.py", "--case", "real", "--repeats", "2", "--out", str(out))
    (row,) = json.loads(out.read_text())["rows"]
    assert {"naive", "two_pass", "aligned", "floor"} <= set(row["implementations"])
    assert row["sequences_without_advantage"] == 0.375
    assert row["sequences_clipped"] == 0.125
    assert row["tokens_without_weight"] > row["tokens_without_advantage"] > 0
    for goal in goals.GOALS:
        assert goals.measured(goal, row) is not None or "liger" in goal.measure
    assert out.with_suffix(".png").stat().st_size > 0


@pytest.mark.parametrize("command", ["lm_head_scaling.py", "precision.py", "linear_jax.py --case real", "shares.py"])
def test_the_others_run(command: str, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    run(*command.split(), "--out", str(out))
    assert json.loads(out.read_text())["rows"]


@pytest.mark.parametrize("script", ["gpu.py", "gpu_jax.py"])
def test_the_gpu_scripts_check_themselves_on_a_cpu(script: str, tmp_path: Path) -> None:
    """Every clip decision right, gradients as near to float64 as the rounding of their parameters' dtype allows."""
    out = tmp_path / "record.json"
    run(script, "--json", str(out), mode="--check")
    ours = [finding for finding in json.loads(out.read_text())["findings"] if finding["name"].startswith("ours")]
    assert len(ours) == 2
    for finding in ours:
        bound = 1e-6 if finding.get("dtype") == "torch.float32" else 2.0**-8
        assert finding["wrong_clip_decisions"] == 0 < finding["clipped"] < finding["clear_cases"]
        assert 0 < max(finding["hidden_error"], finding["head_error"]) < bound


def test_what_computes_something_else_is_not_timed() -> None:
    drawn = head_cases.policy(head_cases.Shape(64, 8, 100))
    x = head_cases.real(drawn, sequences=8, group=2)
    right = head_cases.truth(x, drawn.logp)
    ours = head_implementations.aligned(x)
    errors = stopwatch.in_child(lambda: lm_head.check("aligned", ours, x, right))
    lm_head.agree("aligned", errors, 100, 1.0)

    def off() -> Any:
        value, hidden, head = ours.run()  # type: ignore[misc]  # returns what torch returns
        return value, hidden, head * 1.001

    errors = stopwatch.in_child(lambda: lm_head.check("aligned", ours._replace(run=off), x, right))
    with pytest.raises(SystemExit, match="lm_head_error"):
        lm_head.agree("aligned", errors, 100, 1.0)


def test_a_wrong_clip_decision_is_seen() -> None:
    drawn = head_cases.policy(head_cases.Shape(64, 8, 100))
    x = head_cases.real(drawn, sequences=16, group=2)
    right = head_cases.truth(x, drawn.logp)
    assert int(right.clipped.sum()) == 2
    all_live = right._replace(clipped=torch.zeros_like(right.clipped))
    errors = stopwatch.in_child(lambda: lm_head.check("naive", head_implementations.naive(x), x, all_live))
    assert errors["wrong_clip_decisions"] == 2


def test_peak_memory_is_that_of_the_run() -> None:
    """24 MiB are held for a moment, and again: memory that was freed before is no discount."""

    def run(numbers: int = 24 * 2**18) -> int:
        return int(torch.ones(numbers).sum())

    def twice() -> list[float]:
        run(100)  # loads the code
        return [stopwatch.peak_of(run)[1] for _ in range(2)]

    for peak in stopwatch.in_child(twice):
        assert abs(peak - 24) < 1  # the kernel counts pages in batches


def test_a_failing_measurement_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="status 1"):
        stopwatch.in_child(lambda: 1 / 0)


def test_the_turns_go_both_ways_and_ratios_are_taken_by_round() -> None:
    order: list[str] = []
    stopwatch.by_turns({name: lambda name=name: order.append(name) for name in "abc"}, rounds=2)
    assert "".join(order) == "abccba"
    ours, theirs = [stopwatch.Seconds(1.0, 9.0), stopwatch.Seconds(4.0, 9.0)], [stopwatch.Seconds(2.0, 9.0)] * 2
    assert stopwatch.ratios(ours, theirs) == {"min": 0.5, "median": 1.25, "max": 2.0}


def test_a_missed_goal_is_called_missed() -> None:
    row = {"shape": "1,1,1", "case": "dense", "cpu_ratios": {"two_pass/naive": {"median": 1.01}}, "implementations": {}}
    goal = next(goal for goal in goals.GOALS if goal.measure == "two_pass/naive")
    assert goals.verdict(goal, row) == "1.01, goal ≤ 1.00: **missed**"
    row["cpu_ratios"]["two_pass/naive"]["median"] = 0.99
    assert goals.verdict(goal, row) == "0.99, goal ≤ 1.00: met"


def test_the_page_has_the_table_of_the_committed_results() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert page == goals.with_table(page, goals.goals_table(goals.committed()))


def test_a_narrow_miss_does_not_look_met() -> None:
    goal = goals.Goal("time", "a/b", 1.15, 0.8)
    cells = {x: goals.verdict(goal, {"case": "dense", "cpu_ratios": {"a/b": {"median": x}}}) for x in (1.146, 1.153, 1.16)}
    assert cells == {
        1.146: "1.15, goal ≤ 1.15: met",
        1.153: "1.153, goal ≤ 1.15: **missed**",
        1.16: "1.16, goal ≤ 1.15: **missed**",
    }
