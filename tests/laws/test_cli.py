"""gspo-laws and python -m gspo_core.laws: what they print, write and return."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.repository import ROOT

import gspo_core.__main__
from gspo_core.laws.cli import main

WRONG = "gspo_core.laws.mutants.clip:mirrored_for_negative"
RIGHT = "gspo_core.laws.mutants:gspo"
BAND = ["--clip", "0.2", "0.3", "--examples", "5"]


def test_the_command_prints_and_writes_the_broken_laws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "card.json", tmp_path / "card.html"
    assert main([WRONG, *BAND, "--all", "--json", str(files[0]), "--html", str(files[1])]) == 1
    printed, card, page = capsys.readouterr().out, json.loads(files[0].read_text()), files[1].read_text()
    broken = [law["law"] for law in card["laws"] if (law["status"], law["severity"]) == ("broken", "wrong")]
    assert "an unclipped unit has a gradient, however far its ratio is from 1" in broken
    assert all(f"BROKEN: {name}" in printed for name in broken)
    assert printed.startswith("Cause: the clip is mirrored for A < 0")
    assert card["causes"][0]["laws"] == sorted(broken, key=card["causes"][0]["laws"].index)
    assert page.index("the clip is mirrored for A &lt; 0") < page.index("<details>")
    assert "loss returns" in page
    assert "<script" not in page


def test_a_loss_that_fails_at_extremes_only_has_status_0_unless_strict(capsys: pytest.CaptureFixture[str]) -> None:
    fragile = ["gspo_core.laws.mutants.clip:overflows", *BAND, "--examples", "5"]
    assert main(fragile) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Fragile: exp overflows")
    assert "0 are broken" in printed
    assert main([*fragile, "--strict"]) == 1


def test_the_command_profiles(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([WRONG, "--profile", "--examples", "2", "--html", str(tmp_path / "x.html")]) == 1
    assert "MIRRORED" in capsys.readouterr().out
    assert "MIRRORED" in (tmp_path / "x.html").read_text()
    assert main([RIGHT, "--profile", "--examples", "2"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [["nowhere:loss"], ["gspo_core.laws.mutants"], [RIGHT, "--like", "nobody"], ["gspo_core:missing"]],
    ids=["no module", "no name", "no preset", "no attribute"],
)
def test_a_mistake_in_the_arguments_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("gspo-laws: ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize("option", [["--like", "GRPO"], ["--clip", "0.2", "0.2"]], ids=["like", "clip"])
def test_options_without_an_effect_are_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([RIGHT, "--profile", *option])
    assert "--profile finds the preset and the clip range itself" in capsys.readouterr().err


@pytest.mark.slow
def test_python_m_runs_the_command() -> None:
    command = [sys.executable, "-m", "gspo_core.laws", RIGHT, *BAND]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env={"PYTHONPATH": str(ROOT)})
    assert result.returncode == 0, result.stderr
    assert "gspo, like GSPO with Clip(low=0.2, high=0.3) (numpy, seed 0)" in result.stdout


@pytest.mark.slow
def test_a_closed_pipe_is_quiet() -> None:
    """As in `gspo-laws ... | head -1`: the reader goes away before the report is printed."""
    command = [sys.executable, "-m", "gspo_core.laws", RIGHT, *BAND]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=300) == 0


def test_a_missing_hypothesis_is_one_line_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("gspo_core.laws")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    assert gspo_core.__main__.main([RIGHT]) == 2
    assert capsys.readouterr().err == 'gspo-laws: hypothesis is not installed: pip install "gspo-core[laws]"\n'


def test_the_installed_command_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert gspo_core.__main__.main(["nowhere:loss"]) == 2
    assert "No module named 'nowhere'" in capsys.readouterr().err
    assert importlib.import_module("gspo_core.laws.__main__").main is main


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        gspo_core.__main__.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"gspo-core {gspo_core.__version__}\n"
