"""gspo-laws and python -m gspo_core.laws: what they print, write and return."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.repository import ROOT

import gspo_core.__main__
from gspo_core.laws.cli import main
from gspo_core.laws.mutants import gspo

pytestmark = pytest.mark.slow

WRONG = "gspo_core.laws.mutants.clip:mirrored_for_negative"
RIGHT = "gspo_core.laws.mutants:gspo"
BAND = ["--clip", "0.2", "0.3", "--examples", "5"]


def test_the_command_prints_and_writes_the_broken_laws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "card.json", tmp_path / "card.html", tmp_path / "card.md"
    assert main([WRONG, *BAND, "--all", "--json", str(files[0]), "--html", str(files[1]), "--card", str(files[2])]) == 1
    assert "## Cause: the clip is mirrored for A \\< 0" in files[2].read_text()
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
    assert main([WRONG, "--profile", "--examples", "2", "--card", str(tmp_path / "x.html")]) == 0
    assert "MIRRORED" in capsys.readouterr().out
    assert "MIRRORED" in (written := (tmp_path / "x.html").read_text())
    assert written.startswith("<!doctype html>")
    assert main([WRONG, "--profile", "--examples", "2", "--strict"]) == 1


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


@pytest.mark.parametrize("text", ["raise SystemExit(0)", "1 / 0", "x ="], ids=["exit", "error", "syntax"])
def test_a_file_that_cannot_be_imported_is_no_verdict(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loss_that_ends.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["loss_that_ends:loss"]) == 2
    assert capsys.readouterr().err.startswith("gspo-laws: loss_that_ends cannot be imported: ")


def ends(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
    """A loss that ends Python where a row is empty."""
    if not mask.any(axis=1).all():
        raise SystemExit(0)
    return gspo(logp, old_logp, advantage, mask)


def test_a_loss_that_calls_exit_has_raised_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{__name__}:ends", "--examples", "5"]) == 1
    assert "SystemExit" in capsys.readouterr().out


def test_a_profile_claims_nothing_and_honours_like_and_clip(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([WRONG, "--profile", "--examples", "2", "--like", "GSPO", "--clip", "0.2", "0.3"]) == 1
    assert f"{WRONG}, like GSPO with Clip(low=0.2, high=0.3)" in capsys.readouterr().out


def verl_like(old_log_prob: Any, log_prob: Any, advantages: Any, response_mask: Any, mode: str = "") -> tuple[Any, dict]:
    """The arguments of verl's losses, old log-probs first; float masks only, one advantage per token."""
    assert (response_mask.dtype.kind, mode) == ("f", "")
    return gspo(log_prob, old_log_prob, advantages[:, 0], response_mask > 0), {"actor/pg_clipfrac": 0.0}


def renamed(x: Any, y: Any, z: Any, w: Any) -> Any:
    """Arguments in another order, by names that say nothing."""
    return gspo(y, x, z, w)


def over_all_rows(logp: Any, old_logp: Any, advantage: Any, mask: Any) -> Any:
    """A mean over all rows: right where every row holds a token."""
    return gspo(logp, old_logp, advantage, mask) * mask.any(axis=1).mean()


THERE = f"{Path(__file__).stem}"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("verl_like", []),
        ("verl_like", ["--float-mask", "--token-advantages"]),
        ("renamed", ["--names", "logp=y,old_logp=x,advantage=z,mask=w"]),
    ],
    ids=["recognised", "said", "named"],
)
def test_arguments_by_name_in_any_order(
    name: str, options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert main([f"{THERE}:{name}", *BAND, *options]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{THERE}:{name}, like GSPO")
    assert "Arguments: " in printed


def test_a_loss_that_is_never_given_an_empty_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    loss = f"{THERE}:over_all_rows"
    assert main([loss, *BAND]) == 1
    assert main([loss, *BAND, "--no-empty-rows"]) == 0
    assert "Not tested: an empty row contributes nothing: " in capsys.readouterr().out
    assert main([loss, *BAND, "--no-empty-rows", "--profile"]) == 0
    assert "rows without a token are left out of every call" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--no-empty-rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--names", "x"], "--names: expected ROLE=ARGUMENT"),
        (["--without", "X"], "--without: expected claims of KNOWN_FORMULA"),
    ],
    ids=["names", "without"],
)
def test_options_that_mean_nothing_are_refused(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([RIGHT, *options]) == 2
    assert words in capsys.readouterr().err


def test_python_m_runs_the_command() -> None:
    command = [sys.executable, "-m", "gspo_core.laws", RIGHT, *BAND]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env={"PYTHONPATH": str(ROOT)})
    assert result.returncode == 0, result.stderr
    assert f"{RIGHT}, like GSPO with Clip(low=0.2, high=0.3) (numpy, seed 0)" in result.stdout


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
